"""The networks that the experiments of this paper share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.excessive_invariance import classifiers, metamers
from invjax.data import Dataset
from invjax.models import mlp

IMAGES = np.random.default_rng(0).integers(0, 17, (32, 8, 8, 1)).astype(np.uint8)
DATA = Dataset(IMAGES, np.arange(32, dtype=np.int32) % 10, 10, 17)
ICE = classifiers.Ice(critic_hidden=(8,))


def test_pairs_are_of_different_classes_and_go_through_all_of_them():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    first, second = classifiers.pair_up(labels, 40)
    assert (labels[first] != labels[second]).all()
    assert labels[first[:10]].tolist() == list(range(10))
    assert len(set(first.tolist())) == 40
    assert len(classifiers.pair_up(labels, 600)[0]) == 500


@pytest.mark.slow
def test_the_joint_loss_of_ice_has_the_gradients_of_both_players():
    model = classifiers.revnet("digits", (1, 1))
    joint_loss, game = classifiers.ice_players(model, ICE, DATA.levels)
    key, batch = jax.random.key(0), (DATA.images, DATA.labels)

    @jax.jit
    def gradients():
        start = model.init(key, jnp.asarray(IMAGES / np.float32(16)))
        critic = mlp(10, ICE.critic_hidden).init(key, jnp.zeros((1, 54)))
        both = jax.grad(lambda params: joint_loss(params, key, batch, 0)[0])({"model": start, "critic": critic})
        of_model = jax.grad(lambda params: game.model_loss(game.encode(params, key, batch), critic, key, batch, 0)[0])
        of_critic = jax.grad(game.critic_loss)(critic, game.encode(start, key, batch), batch)
        return both, {"model": of_model(start), "critic": of_critic}

    both, alone = gradients()
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(alone["critic"])) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), both, alone)


@pytest.mark.slow
@pytest.mark.parametrize("ice", [None, ICE, classifiers.Ice("alternating", critic_hidden=(8,))])
def test_each_form_of_training_fits_the_labels(ice, tmp_path):
    config = metamers.Config(common.Data("digits"), (1, 1), common.Train(20, 16, 1e-2), ice=ice or ICE)
    params = classifiers.train(config, "iCE" if ice else "CE", DATA, seed=0, folder=tmp_path)
    logits = np.asarray(config.model.apply(params, jnp.asarray(IMAGES / np.float32(16))))
    assert (logits.argmax(1) == DATA.labels).mean() > 0.6  # chance is a tenth
