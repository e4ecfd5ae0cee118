"""Claims of papers, and ours, as hypotheses held against a grid of models, kinds and arms."""

from attcot_lab.claims.claim import CLAIMS, PAPERS, Claim, Term
from attcot_lab.claims.table import claims_table, headline, untested

__all__ = ["CLAIMS", "PAPERS", "Claim", "Term", "claims_table", "headline", "untested"]
