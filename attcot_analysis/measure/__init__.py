"""Measure: when a model decides, whether it looks, and whether the picture matters.

Which module answers what:

* *attention*: `attention` and `few_queries` (what the model runs), `probe` and `mass` (read it
  exactly, without a T x T matrix), `knockout` (change it), `flow` (follow it through all layers);
* *commitment*: `candidates`, `block_masks`, `readout`, `branches` (all forced answers in one pass),
  `commitment` and `commitment_tables`, `controls`, `lens` and `text_stack` (by layer), `mistakes`
  and `post_hoc` (Lanham et al.);
* *visual access*: `access`, `access_read` and `access_blocks`, `trajectory`, `focus`, `sinks`,
  `heads` and `head_probe`; causally `causal_access`, `causal_plan`, `causal_tables`, `forced`;
* *dependence*: `edits`, `occlusion`, `dependence`, `dependence_tables`, `divergence`;
* *relevance*: `step_maps` (the record all share), `rollout`, `attributions`, `targets`,
  `relevance`;
* *numbers*: `catalogue` (what every metric means), `values`, `metrics`, `curves`, `statistics`,
  `significance`, `cells` and `head_comparison` (many at once), `separation`;
* *runs*: `stages` and `suite` (everything on one model), `records`, `shards`, `run`, `files`,
  `provenance`;
* *trust*: `check`, `checks_inputs`, `checks_attention` (`attcot check-model`), `answers`.
"""
