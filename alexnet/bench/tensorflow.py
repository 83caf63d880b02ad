"""The article's step in TensorFlow 2, a program by itself: no torch here, for one process does not bear both libraries.

    python -m alexnet.bench.tensorflow BATCH THREADS

Takes a step for each line it is sent, and answers with the loss; ends where its input does.
"""

import os
import sys
from collections.abc import Callable
from typing import Any


def article(batch: int, threads: int) -> Callable[[], float]:
    """A step in a compiled graph: NHWC, fp32, Keras' layers in their initial values, and its Adam."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    images = tf.random.normal((batch, 224, 224, 3))
    labels = tf.random.uniform((batch,), maxval=1000, dtype=tf.int64)
    model = network(tf)
    rule = tf.keras.optimizers.Adam(1e-6)

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        weights = model.trainable_variables
        rule.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return lambda: float(step(images, labels))


def network(tf: Any) -> Any:
    """The network as one writes it there: images (B, 224, 224, 3) -> logits (B, 1000)."""
    layers, lrn = tf.keras.layers, tf.nn.local_response_normalization
    return tf.keras.Sequential([
        layers.Input((224, 224, 3)),
        layers.Conv2D(96, 11, strides=4, padding="same", activation="relu"), layers.Lambda(lrn),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.Conv2D(256, 5, padding="same", activation="relu"), layers.Lambda(lrn),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.Conv2D(384, 3, padding="same", activation="relu"),
        layers.Conv2D(384, 3, padding="same", activation="relu"),
        layers.Conv2D(256, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(3, strides=2, padding="same"), layers.Flatten(),
        layers.Dense(4096, activation="relu"), layers.Dropout(0.5),
        layers.Dense(4096, activation="relu"), layers.Dropout(0.5),
        layers.Dense(1000),
    ])  # fmt: skip


if __name__ == "__main__":
    step = article(int(sys.argv[1]), int(sys.argv[2]))
    for _ in sys.stdin:
        print(step(), flush=True)
