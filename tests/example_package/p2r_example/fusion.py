"""A fusion rule: a function with the signature of ``FusionRule.believe``."""

from p2r_jax.types import Gaussian


def intersect(prior, estimate, training, past, history):
    """Covariance intersection with equal shares (Julier & Uhlmann 1997).

    Never too sure, however much prior and estimate have in common: the precision is the
    mean of both, where the paper's eq. 4 takes the sum.
    """
    a, b = 1 / prior.variance, 1 / estimate.variance
    return Gaussian((a * prior.mean + b * estimate.mean) / (a + b), 2 / (a + b)), past
