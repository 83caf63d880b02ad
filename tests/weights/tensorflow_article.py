"""The article's program in TensorFlow, run by the tests: its graph built anew, trained, and saved by its own Saver.

    python tensorflow_article.py IN.npz OUT.npz

`steps` given: the article's network, trained that long on `images` and `labels`, `batch` at a time, at `rate`, then
saved as model1.ckpt beside OUT, which holds what it makes of the next batch without dropout (activations, loss,
gradients) and its weights after one more update, at the article's rate. Otherwise: variables of small shapes under the
article's names, saved in each form.
"""

import math
import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()


def variable(initial):
    return tf.Variable(initial).initialized_value()


def weights(shape, num):
    return variable(tf.truncated_normal(shape, stddev=1.0 / math.sqrt(float(num)), seed=1))


def biases(shape):  # the article's are zeros: nothing would be seen of them
    return variable(tf.random_uniform(shape, -0.05, 0.05, seed=2))


def pool(x):
    return tf.nn.max_pool(x, ksize=[1, 3, 3, 1], strides=[1, 2, 2, 1], padding="SAME")


def inference(images, keep_prob, classes):
    seen = {}

    def conv(x, name, shape, num, stride=1):
        with tf.name_scope(name):
            w, b = weights(shape, num), biases(shape[-1:])
            return tf.nn.relu(tf.nn.conv2d(x, w, strides=[1, stride, stride, 1], padding="SAME") + b)

    def full(x, name, shape, num):
        with tf.name_scope(name):
            return tf.matmul(x, weights(shape, num)) + biases(shape[-1:])

    x = seen["relu1"] = conv(tf.reshape(images, [-1, 224, 224, 3]), "conv1", [11, 11, 3, 96], 224 * 224, stride=4)
    x = seen["pool1"] = pool(tf.nn.local_response_normalization(x))
    x = seen["relu2"] = conv(x, "conv2", [5, 5, 96, 256], 96)
    x = seen["pool2"] = pool(tf.nn.local_response_normalization(x))
    x = seen["relu3"] = conv(x, "conv3", [3, 3, 256, 384], 256)
    x = seen["relu4"] = conv(x, "conv4", [3, 3, 384, 384], 384)
    x = seen["relu5"] = conv(x, "conv5", [3, 3, 384, 256], 384)
    x = seen["pool5"] = pool(x)
    x = seen["relu6"] = tf.nn.relu(full(tf.reshape(x, [-1, 7 * 7 * 256]), "fc1", [7 * 7 * 256, 4096], 7 * 7 * 256))
    x = seen["relu7"] = tf.nn.relu(full(tf.nn.dropout(x, keep_prob), "fc2", [4096, 4096], 4096))
    x = seen["fc8"] = full(tf.nn.dropout(x, keep_prob), "fc3", [4096, classes], 4096)
    return tf.nn.softmax(x), seen


def article(given, folder):
    classes, batch, steps = int(given["classes"]), int(given["batch"]), int(given["steps"])
    images, labels = given["images"], np.eye(classes, dtype=np.float32)[given["labels"]]
    images_placeholder = tf.placeholder("float32", shape=(None, 224 * 224 * 3))
    labels_placeholder = tf.placeholder("float32", shape=(None, classes))
    keep_prob = tf.placeholder("float")
    tf.set_random_seed(0)
    logits, seen = inference(images_placeholder, keep_prob, classes)
    loss = tf.reduce_mean(-tf.reduce_sum(labels_placeholder * tf.log(tf.nn.softmax(logits))))
    rate = tf.placeholder_with_default(0.01, shape=())
    update = tf.train.AdamOptimizer(rate).minimize(loss)
    variables = tf.trainable_variables()
    gradients = tf.gradients(loss, variables)

    def fed(step, keep):
        rows = np.arange(step * batch, (step + 1) * batch) % len(images)
        return {images_placeholder: images[rows].reshape(batch, -1), labels_placeholder: labels[rows], keep_prob: keep}

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for step in range(steps):
            session.run(update, {**fed(step, 0.5), rate: given["rate"]})
        tf.train.Saver().save(session, str(folder / "model1.ckpt"))
        last = fed(steps, 1.0)
        values, cost, slopes = session.run([seen, loss, gradients], last)
        out = {f"seen {name}": value for name, value in values.items()} | {"loss": cost}
        out |= {f"gradient {one.op.name}": slope for one, slope in zip(variables, slopes, strict=True)}
        session.run(update, last)
        return out | {f"after {one.op.name}": session.run(one) for one in variables}


SHAPES = {"conv1": (3, 3, 3, 4), "conv2": (3, 3, 4, 5), "conv3": (3, 3, 5, 6), "conv4": (3, 3, 6, 6), "conv5": (3, 3, 6, 3),
          "fc1": (12, 8), "fc2": (8, 7), "fc3": (7, 2)}  # fmt: skip


def small(folder):
    out = {}
    for form in ("scoped", "unscoped"):
        with tf.Graph().as_default(), tf.Session() as session:
            loss = 0.0
            for name, shape in SHAPES.items():
                with tf.name_scope(name if form == "scoped" else ""):
                    for part in (shape, shape[-1:]):
                        loss += tf.reduce_sum(tf.Variable(tf.random_normal(part)) ** 2)
            update = tf.train.AdamOptimizer(0.01).minimize(loss)
            session.run(tf.global_variables_initializer())
            for _ in range(7):
                session.run(update)
            saver, everything = tf.train.Saver(sharded=True), {v.op.name: v for v in tf.global_variables()}
            saver.save(session, str(folder / f"{form}.ckpt"))
            version = tf.train.SaverDef.V1
            tf.train.Saver(write_version=version).save(session, str(folder / f"{form}-v1.ckpt"))
            out |= {f"{form} {name}": value for name, value in session.run(everything).items()}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("conv1/Variable", (4, 6), partitioner=tf.fixed_size_partitioner(2))
        session.run(tf.global_variables_initializer())
        for version, name in ((tf.train.SaverDef.V2, "sliced.ckpt"), (tf.train.SaverDef.V1, "sliced-v1.ckpt")):
            tf.train.Saver(write_version=version).save(session, str(folder / name))
    return out


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as saved:
        given = dict(saved)
    folder = Path(sys.argv[2]).parent
    np.savez(sys.argv[2], **(article(given, folder) if "steps" in given else small(folder)))
