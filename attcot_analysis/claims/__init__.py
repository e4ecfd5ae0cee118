"""Claims of papers, and ours, as hypotheses held against a grid of models, kinds and arms."""

from attcot_analysis.claims.catalogue import CLAIMS, PAPERS
from attcot_analysis.claims.table import claims_table, headline, untested
from attcot_analysis.measure.claim import Claim, Term

__all__ = ["CLAIMS", "PAPERS", "Claim", "Term", "claims_table", "headline", "untested"]
