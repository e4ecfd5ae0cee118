"""All claims that are put to the test, and whose they are."""

from collections.abc import Mapping
from types import MappingProxyType

from attcot_lab.claims import ablations, att_cot, sayo, together, vista
from attcot_lab.claims.claim import Claim

PAPERS: Mapping[str, str] = MappingProxyType(
    {
        att_cot.PAPER: "arXiv 2606.01558, abstract; its formulas and figures are not public to us",
        ablations.PAPER: "hypotheses of this project about its ablations, and about the systems "
        "side by side",
        sayo.PAPER: "arXiv 2602.08241, abstract and project page; its reward from published code",
        vista.PAPER: "arXiv 2605.11931, abstract; its method from public summaries",
    }
)
"""Paper → where its claims are taken from; claims of further papers come with their entry."""

CLAIMS: tuple[Claim, ...] = (
    *att_cot.att_cot_claims(),
    *ablations.ablation_claims(),
    *together.together_claims(),
    *sayo.sayo_claims(),
    *vista.vista_claims(),
)
"""All claims, by topic."""
