"""TensorFlow's own ops on what a test saved: run as a program, so that its warnings and threads stay out of the test.

    python tensorflow_oracle.py IN.npz OUT.npz

`article`: the article's graph, NHWC, on `images` and the weights given. `adam`: TensorFlow's Adam on `gradients`.
"""

import sys

import numpy as np
import tensorflow as tf


def article(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = tf.constant(given["images"].transpose(0, 2, 3, 1))
    out = {}

    def conv(x, name: str, stride: int):
        w = given[f"{name}.weight"].transpose(2, 3, 1, 0)  # OIHW -> HWIO
        return tf.nn.relu(tf.nn.conv2d(x, w, strides=[1, stride, stride, 1], padding="SAME") + given[f"{name}.bias"])

    def pool(x):
        return tf.nn.max_pool(x, ksize=[1, 3, 3, 1], strides=[1, 2, 2, 1], padding="SAME")

    x = conv(x, "conv1", 4)
    x = out["pool1"] = pool(tf.nn.local_response_normalization(x))
    x = pool(tf.nn.local_response_normalization(conv(x, "conv2", 1)))
    x = out["pool2"] = x
    x = out["pool5"] = pool(conv(conv(conv(x, "conv3", 1), "conv4", 1), "conv5", 1))
    flat = tf.reshape(x, [x.shape[0], -1])  # H, W, C
    w = given["fc6.weight"].reshape(4096, 256, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 4096)
    x = tf.nn.relu(flat @ w + given["fc6.bias"])
    x = tf.nn.relu(x @ given["fc7.weight"].T + given["fc7.bias"])
    out["fc8"] = x @ given["fc8.weight"].T + given["fc8.bias"]
    return {k: v.numpy().transpose(0, 3, 1, 2) if v.ndim == 4 else v.numpy() for k, v in out.items()}


def adam(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    w, m, v = (tf.Variable(given["w"] if i == 0 else np.zeros_like(given["w"])) for i in range(3))
    track = []
    for t, g in enumerate(given["gradients"], 1):
        tf.raw_ops.ResourceApplyAdam(
            var=w.handle, m=m.handle, v=v.handle, beta1_power=np.float32(0.9**t), beta2_power=np.float32(0.999**t),
            lr=np.float32(given["lr"]), beta1=np.float32(0.9), beta2=np.float32(0.999), epsilon=np.float32(1e-8),
            grad=g,
        )  # fmt: skip
        track.append(w.numpy())
    return {"track": np.stack(track)}


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as saved:
        given = dict(saved)
    np.savez(sys.argv[2], **(article if "images" in given else adam)(given))
