"""The official scorers once more, written from their description and in another way than the package."""

from __future__ import annotations

import re

import numpy as np


def pope(answers, labels):
    """(accuracy, precision, recall, f1, yes_ratio), or None where the script divides by zero."""
    heads = [a[: a.index(".")] if "." in a else a for a in answers]
    said = np.array([not re.search(r"(?:\A| )(?:No|no|not)(?: |\Z)", re.sub(",", "", h)) for h in heads])
    n = min(len(said), len(labels))
    if n == 0:
        return None
    table = np.zeros((2, 2), int)
    np.add.at(table, (said[:n].astype(int), np.array(labels[:n]).astype(int)), 1)
    tp, fp, fn, tn = (int(table[k]) for k in ((1, 1), (1, 0), (0, 1), (0, 0)))
    if tp == 0:
        return None
    p, r = tp / (tp + fp), tp / (tp + fn)
    return (tp + tn) / n, p, r, 2 * p * r / (p + r), int(said.sum()) / len(said)


def _up(n):
    total = 0.001
    for _ in range(n):
        total += 1
    return total


def amber_discriminative(rows):
    """rows of (type string, "yes"/"no", answer) -> {metric: value}."""
    names = {"state": "State", "number": "Number", "action": "Action", "hallucination": "Existence"}
    sections = [names.get(kind.split("-")[-1], "Relation") for kind, _, _ in rows]

    def four(members, e):
        groups = [[r[1:] for r, s in zip(rows, sections, strict=True) if s in group] for group in members]
        correct = sum(t.capitalize() == a for g in groups for t, a in g)
        hits = sum((t, a) == ("no", "No") for g in groups for t, a in g)
        total = said = truth = 0.0
        for g in groups:
            total += _up(len(g))
            said += _up(sum(a == "No" for _, a in g))
            truth += _up(sum(t == "no" for t, _ in g))
        a, p, r = (round(x * 100, 1) for x in (correct / total, hits / said, hits / truth))
        return a, p, r, round(2 * (p / 100) * (r / 100) / ((p / 100) + (r / 100) + e) * 100, 1)

    everything = {"State", "Number", "Action", "Existence", "Relation"}
    values = {
        "": four([everything], 0.0001),
        "Existence/": four([{"Existence"}], 0.001),
        "Attribute/": four([{"State"}, {"Number"}, {"Action"}], 0.0001),
        **{f"{s}/": four([{s}], 0.0001) for s in ("State", "Number", "Action", "Relation")},
    }
    quantities = ("Accuracy", "Precision", "Recall", "F1")
    return {s + q: v for s, four_ in values.items() for q, v in zip(quantities, four_, strict=True)}


def amber_generative(rows, association, safe, similarity):
    """rows of (nouns, truth, hallu) -> (CHAIR, Cover, Hal, Cog)."""
    vocabulary = set(association).union(*association.values())
    bad_total, kept_total, clean = 0, 0.001, 0
    covered, slots, cogged, hallu_slots, num = 0, 0.001, 0, 0.001, 0.001
    for nouns, truth, hallu in rows:
        tables = []
        for words in (truth, hallu):
            flat = [a for w in words for a in association[w]] + list(words)
            owner = [i for i, w in enumerate(words) for _ in association[w]] + list(range(len(words)))
            tables.append((flat, owner, np.zeros(len(words), int)))
        (t_words, t_owner, t_hit), (h_words, h_owner, h_hit) = tables
        kept = [n for n in nouns if n in vocabulary]
        bad = 0
        for noun in kept:
            if noun in safe:
                continue
            if noun in t_words:
                t_hit[t_owner[t_words.index(noun)]] = 1
                continue
            if noun in h_words:
                h_hit[h_owner[h_words.index(noun)]] = 1
            near = [k for k, w in enumerate(h_words) if similarity(noun, w) > 0.8]
            if near:
                h_hit[h_owner[near[0]]] = 1
            near = [k for k, w in enumerate(t_words) if similarity(noun, w) > 0.8]
            if near:
                t_hit[t_owner[near[0]]] = 1
            else:
                bad += 1
        bad_total += bad
        kept_total += len(kept)
        clean += not bad
        covered, slots = covered + int(t_hit.sum()), slots + len(truth)
        cogged, hallu_slots = cogged + int(h_hit.sum()), hallu_slots + len(hallu)
        num += 1
    return (
        round(bad_total / kept_total * 100, 1),
        round(covered / slots * 100, 1),
        round(100 - clean / num * 100, 1),
        round(cogged / hallu_slots * 100, 1),
    )


def mmhal(replies):
    """(average, rate, informativeness) of replies in row order."""
    found = [set(re.findall(r"rating: ([0-6])", r.lower())) for r in replies]
    scores = np.array([int(min(f)) if len(f) == 1 else 0 for f in found])
    informative = np.where(scores >= 3, scores - 3, scores)
    return scores.sum() / len(scores), (scores < 3).sum() / len(scores), np.mean(informative) / 3 * 100


def caption_nodes(words, synonym_rows, pairs):
    """Nodes of singular words: pairs merged by recursion, toilet before seat."""

    def merge(rest):
        if not rest:
            return []
        joined = " ".join(rest[:2])
        return [pairs[joined], *merge(rest[2:])] if joined in pairs else [rest[0], *merge(rest[1:])]

    merged = merge(list(words))
    if {"toilet", "seat"} <= set(merged):
        merged = list(filter("seat".__ne__, merged))
    found = []
    for word in merged:
        rows = [row for row in synonym_rows if word in row]
        if rows:
            found.append(rows[-1][0])
    return found


def chair(rows):
    """rows of (nodes, truth) -> (CHAIRs, CHAIRi), or None where the script divides by zero."""
    bad = np.array([sum(n not in truth for n in nodes) for nodes, truth in rows])
    total = sum(len(nodes) for nodes, _ in rows)
    return ((bad > 0).sum() / len(rows), bad.sum() / total) if total else None
