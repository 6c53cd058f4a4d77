"""The texts that the doctor examines models on."""

from __future__ import annotations

# (prompt, response), from short to long, so that a batch needs padding.
CONVERSATIONS = (
    ("What is two and two?", "Four."),
    ("水在多少度结冰？", "在标准气压下是零摄氏度。"),
    ("Name a river.", "The Nile, which runs north through eleven countries."),
    ("Is it safe to eat snow?", "Fresh white snow, yes, a little of it; grey or old snow is better left alone."),
    ("怎样泡好一杯绿茶？", "用八十度左右的水，茶叶放三克，泡两分钟就可以喝了。水太烫，茶会发苦。"),
    (
        "Why do cats purr?",
        "Mostly because they are content, but a cat that is hurt or afraid may purr too, so look at the rest of it.",
    ),
    (
        "How do I keep bread fresh?",
        "Keep it in a paper bag and eat it within three days; the fridge makes it stale sooner. Slice and freeze the"
        " rest.",
    ),
    (
        "Write two lines about rain.",
        "It knocks on every window of the street and asks for nothing.\nBy noon it has moved on, and the gutters"
        " tell each other what it said.",
    ),
)
_SUBJECTS = (
    ("The river", "The old clock", "His dog", "The last train", "The bread", "Her letter", "The lamp", "Our garden"),
    ("这条河", "那座旧钟", "他的狗", "末班车", "面包", "她的信", "门边的灯", "我们的花园"),
)
_PREDICATES = (
    ("was quiet today.", "is hard to find.", "made us all smile.", "will be gone by winter."),
    ("今天很安静。", "不容易找到。", "让大家都笑了。", "到冬天就没有了。"),
)
# 64 different short texts: equal rewards among them are exact ties.
SHORT = (
    *(("Say something.", f"{s} {p}") for s in _SUBJECTS[0] for p in _PREDICATES[0]),
    *(("说一句话。", s + p) for s in _SUBJECTS[1] for p in _PREDICATES[1]),
)
