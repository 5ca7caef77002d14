"""Write tests/data/tf_tiny: a tiny cascade saved by TensorFlow itself, as the authors' code saves.

Run by hand where TensorFlow is installed (`python tests/data/make_tf_tiny.py`); the tests read what
it wrote. Three stages of 4x8 to 16x32, widths 6, 5, 4, three classes, two images, random values.
`values.npz` holds every variable's value; `v1.ckpt` is one variable in the old V1 format.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "tf_tiny"
WIDTHS, CLASSES, IMAGES = (6, 5, 4), 3, 2


def shapes() -> dict[str, tuple[int, ...]]:
    """Every trained variable, named by hand so that nothing here depends on crn_fast."""
    result: dict[str, tuple[int, ...]] = {}
    before = 0
    for i, width in enumerate(WIDTHS):
        for conv, inputs in (("conv1", before + CLASSES), ("conv2", width)):
            stem = f"g_{4 << i}_{conv}"
            result[f"{stem}/weights"] = (3, 3, inputs, width)
            result[f"{stem}/LayerNorm/beta"] = (width,)
            result[f"{stem}/LayerNorm/gamma"] = (width,)
        before = width
    result["g_16_conv100/weights"] = (1, 1, before, 3 * IMAGES)
    result["g_16_conv100/biases"] = (3 * IMAGES,)
    return result


def main() -> None:
    tf: Any = import_module("tensorflow")
    tf1 = tf.compat.v1
    rng = np.random.default_rng(20170804)
    with tf.Graph().as_default(), tf1.Session() as session:
        trained = [
            tf1.get_variable(name, initializer=rng.standard_normal(shape).astype(np.float32))
            for name, shape in shapes().items()
        ]
        loss = tf.add_n([tf.reduce_sum(tf.square(variable)) for variable in trained])
        step = tf1.train.AdamOptimizer(1e-4).minimize(loss, var_list=trained)
        session.run(tf1.global_variables_initializer())
        session.run(step)
        saver = tf1.train.Saver(save_relative_paths=True)
        saver.save(session, str(FOLDER / "model.ckpt"), write_meta_graph=False)
        values = {variable.op.name: session.run(variable) for variable in tf1.global_variables()}
        old = tf1.train.Saver(trained[:1], write_version=tf1.train.SaverDef.V1)
        old.save(session, str(FOLDER / "v1.ckpt"), write_meta_graph=False, write_state=False)
    np.savez_compressed(FOLDER / "values.npz", allow_pickle=False, **values)


if __name__ == "__main__":
    main()
