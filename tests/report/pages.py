"""Synthetic pages for the tests, whose content is known exactly."""

import numpy as np

from jaxscape.report import Column, Embedding, Exact, Fact, Page, Palette, Surrogate, Table, Trajectories

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"onmouseover="alert(1)" x="',
    "a\u2028b\u2029c",
    "{{ 7*7 }}",
    "<img src=x onerror=alert(1)>",
    "]]>&amp;'`${alert(1)}",
    "__proto__",
]
STEPS = (0.5, 1.0)


def palette(hues):
    colors = [(0.12, 0.25, 0.62), (0.9, 0.62, 0.0), (0.0, 0.62, 0.45)]
    shades = {}
    for number, hue in enumerate(hues):
        color = colors[number % len(colors)]
        tint = tuple(0.7 + 0.3 * part for part in color)
        shades[hue] = [tint, color, tuple(0.4 * part for part in color)]
    return Palette(
        hues=shades,
        step_sizes={0.5: (0.99, 0.6, 0.4), 1.0: (0.3, 0.05, 0.4)},
        scale=[(0.27, 0.0, 0.33), (0.13, 0.57, 0.55), (0.99, 0.91, 0.14)],
        ink="#222222",
        grey="#777777",
        frame="#D0D0D0",
        minimum="#FFD700",
    )


def trajectories(title="good", hues=("0", "1"), *, epochs=5, begin="jump", labels=("loss", "null", "map"), seed=0):
    """Return two trajectories per hue that spiral around a minimum, or leave their first point; the last ends early."""
    random = np.random.default_rng(seed)
    lengths = [epochs + 1] * (2 * len(hues) - 1) + [max(epochs - 1, 2)]
    member = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.arange(length) for length in lengths]).astype(float)
    step = np.tile(STEPS, len(hues))[member]
    share = time / epochs
    distance = step * (1 - 0.3 * share) if begin == "jump" else share * step
    angle = 0.5 * share if begin == "jump" else 0.5 * (1 - share)
    turn = 2 * np.pi * (member // 2) / len(hues) + angle
    points = np.stack([distance * np.cos(turn), distance * np.sin(turn), share], axis=1)
    loss = np.exp(-3 * share) * step
    loss[5] = np.nan
    return Trajectories(
        title=title,
        member=member,
        time=time,
        hue=[hues[number // 2] for number in range(len(lengths))],
        step_size=np.array(STEPS * len(hues)) if begin == "jump" else None,
        begin=begin,
        columns=[Column(labels[0], loss), Column("norm", 1 + random.random(len(time)))],
        exact=Exact(
            distance=distance,
            angle=angle,
            side=np.array([1.0, -1.0] * len(hues)),
            surrogates=[Surrogate(labels[1], distance, np.zeros(len(time)))],
            heading="4 of 4 ended nearer",
            unit="norms",
        ),
        embeddings=[
            Embedding("flat", labels[2], points[:, :2], np.zeros(2), "flat", is_disconnected=True, words="kept well"),
            Embedding("solid", "3-D", points, np.zeros(3), "solid"),
        ],
        note="95 % accuracy",
    )


def page(runs=None, **changes):
    runs = [trajectories("good"), trajectories("bad", seed=1)] if runs is None else runs
    hues = dict.fromkeys(hue for run in runs for hue in run.hue)
    settings = {
        "title": "good, bad",
        "note": "digits",
        "tables": [Table("Numbers", ("", "good"), [("return", "0.1")], "means", {"return": "how near"})],
        "facts": [Fact("settings", [("epochs", "5")])],
        "commands": ["jaxscape report good"],
    }
    return Page(runs=runs, palette=palette(hues), **(settings | changes))


def hostile_page():
    """Return a page in which every text is hostile."""
    runs = [
        trajectories(HOSTILE[0], HOSTILE, labels=(HOSTILE[1], HOSTILE[4], HOSTILE[5])),
        trajectories(HOSTILE[3], HOSTILE, labels=(HOSTILE[6], HOSTILE[0], HOSTILE[2])),
    ]
    text = " ".join(HOSTILE)
    runs = [run._replace(note=text, exact=run.exact._replace(heading=text, unit=text)) for run in runs]
    runs = [
        run._replace(embeddings=[e._replace(name=text, caption=text, words=text) for e in run.embeddings[:1]])
        for run in runs
    ]
    return page(
        runs,
        title=text,
        hue=HOSTILE[0],
        unit=HOSTILE[1],
        note=text,
        tables=[Table(text, ("", text), [(text, text)], text, {text: text})],
        facts=[Fact(text, [(text, text)])],
        commands=[text],
    )
