"""Trains a classifier on a confidential data set, in plain Python.

Reads   $DATA (default /data/data): CSV; the first line says how many rows and features follow, the last column is the class.
Writes  $OUT/model.json and $OUT/report.txt (default /out).
"""

import csv
import json
import math
import os
import time

EPOCHS = 12
RATE = 0.05
HELD_OUT = 4  # every fourth row is not trained on


def read(path):
    with open(path, newline="", encoding="ascii") as file:
        rows = csv.reader(file)
        header = next(rows)
        count, names = int(header[0]), header[2:]
        table = [[float(value) for value in row] for row in rows]
    if len(table) != count:
        raise SystemExit(f"{path}: {count} rows were announced, {len(table)} are there")
    return names, [row[:-1] for row in table], [int(row[-1]) for row in table]


def standardise(features):
    """Mean 0 and deviation 1 in every column, so that one learning rate suits all."""
    columns = list(zip(*features))
    means = [sum(column) / len(column) for column in columns]
    deviations = [
        math.sqrt(sum((value - mean) ** 2 for value in column) / len(column)) or 1.0
        for column, mean in zip(columns, means)
    ]
    scaled = [
        [(value - mean) / deviation for value, mean, deviation in zip(row, means, deviations)]
        for row in features
    ]
    return scaled, means, deviations


def probability(weights, bias, row):
    score = bias + sum(map(float.__mul__, weights, row))
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, score))))


def train(rows, labels):
    """Logistic regression by stochastic gradient descent."""
    weights, bias = [0.0] * len(rows[0]), 0.0
    for epoch in range(1, EPOCHS + 1):
        rate, loss = RATE / epoch, 0.0
        for row, label in zip(rows, labels):
            guess = probability(weights, bias, row)
            loss -= math.log(max(1e-12, guess if label else 1.0 - guess))
            step = rate * (label - guess)
            weights = [weight + step * value for weight, value in zip(weights, row)]
            bias += step
        print(f"epoch {epoch:2} of {EPOCHS}: loss {loss / len(rows):.4f}", flush=True)
    return weights, bias


def accuracy(weights, bias, rows, labels):
    hits = sum((probability(weights, bias, row) >= 0.5) == bool(label) for row, label in zip(rows, labels))
    return hits / len(rows)


def split(values, held_out):
    return [value for number, value in enumerate(values) if (number % HELD_OUT == 0) == held_out]


def main():
    source, target = os.environ.get("DATA", "/data/data"), os.environ.get("OUT", "/out")
    started = time.monotonic()
    names, features, labels = read(source)
    print(f"read {len(labels)} rows of {len(features[0])} features", flush=True)
    rows, means, deviations = standardise(features)
    weights, bias = train(split(rows, False), split(labels, False))
    score = accuracy(weights, bias, split(rows, True), split(labels, True))
    report = f"accuracy on held-out rows: {score:.3f}"
    model = {"classes": names, "weights": weights, "bias": bias, "means": means, "deviations": deviations, "accuracy": score}
    with open(os.path.join(target, "model.json"), "w", encoding="ascii") as file:
        json.dump(model, file)
    with open(os.path.join(target, "report.txt"), "w", encoding="ascii") as file:
        file.write(f"{report}\nrows trained on: {len(split(rows, False))}, held out: {len(split(rows, True))}\n")
    print(f"{report} (trained in {time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
