"""Scores of generalisation measures: does a number computed from a trained network tell how well it generalises?

All functions take one value of the measure and one of the generalisation gap for each of n trained networks (minima),
and most of them the hyperparameters of their training, called factors here. A larger measure is meant to go with a
larger gap; negate a measure that is meant to fall. `rank` holds rank correlations, plain, by hyperparameter and
partial, `information` the conditional mutual information, `environments` the sign error and its worst case,
`selection` what is lost by choosing a network by the measure, `resampling` intervals and permutation tests of any of
these scores, `inference` tests of means and corrections for several tests, and `verdicts` a rule that decides a claim.

The same rules for ties hold everywhere but in Kendall's tau itself (tau-b) and the choices of `selection` (expectation
over random order): a pair of minima with equal gaps has no order to predict and is left out; a pair with unequal gaps
and equal measures is neither right nor wrong. So a measure is not rewarded for saying nothing.

Y. Jiang, B. Neyshabur, H. Mobahi, D. Krishnan and S. Bengio, "Fantastic generalization measures and where to find
them" (2020); G. K. Dziugaite et al., "In search of robust measures of generalization" (2020).
"""
