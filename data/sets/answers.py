"""Answers to questions about images: how they are normalised, which become classes, what each is worth.

The rules are those of the public VQA evaluation tool as METER's program applies them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

MIN_ANSWERS = 9
"""Questions whose majority answer a class must be; 3129 answers of VQAv2 are."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")
FULL_STOPS = 32
"""Full stops that are taken out at most: the tool passes a flag where the count belongs."""
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "none": "0",
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"},
    **{"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}

# Right form, then the forms that it replaces; the tool's table holds "somebodyd" as it stands here.
_CONTRACTIONS = """
ain't=aint aren't=arent can't=cant could've=couldve couldn't=couldnt couldn't've=couldn'tve,couldnt've
didn't=didnt doesn't=doesnt don't=dont hadn't=hadnt hadn't've=hadnt've,hadn'tve hasn't=hasnt haven't=havent
he'd=hed he'd've=hed've,he'dve he's=hes how'd=howd how'll=howll how's=hows isn't=isnt it'd=itd
it'd've=itd've,it'dve it'll=itll ma'am=maam mightn't=mightnt mightn't've=mightnt've,mightn'tve might've=mightve
mustn't=mustnt must've=mustve needn't=neednt not've=notve o'clock=oclock oughtn't=oughtnt
'ow's'at=ow's'at,'ows'at,'ow'sat shan't=shant she'd've=shed've,she'dve should've=shouldve shouldn't=shouldnt
shouldn't've=shouldnt've,shouldn'tve somebodyd=somebody'd somebody'd've=somebodyd've,somebody'dve
somebody'll=somebodyll somebody's=somebodys someone'd=someoned someone'd've=someoned've,someone'dve
someone'll=someonell someone's=someones something'd=somethingd something'd've=somethingd've,something'dve
something'll=somethingll that's=thats there'd=thered there'd've=thered've,there'dve there're=therere
there's=theres they'd=theyd they'd've=theyd've,they'dve they'll=theyll they're=theyre they've=theyve 'twas=twas
wasn't=wasnt we'd've=wed've,we'dve we've=weve weren't=werent what'll=whatll what're=whatre what's=whats
what've=whatve when's=whens where'd=whered where's=wheres where've=whereve who'd=whod who'd've=whod've,who'dve
who'll=wholl who's=whos who've=whove why'll=whyll why're=whyre why's=whys won't=wont would've=wouldve
wouldn't=wouldnt wouldn't've=wouldnt've,wouldn'tve y'all=yall y'all'll=yall'll,y'allll
y'all'd've=yall'd've,y'alld've,y'all'dve you'd=youd you'd've=youd've,you'dve you'll=youll you're=youre
you've=youve
"""
CONTRACTIONS = {
    form: right for right, forms in (entry.split("=") for entry in _CONTRACTIONS.split()) for form in forms.split(",")
}


def normalize_answer(answer: str) -> str:
    """Normalise an answer: punctuation, lower case, number words, articles, contractions. "A" gives ""."""
    attached = COMMA_IN_NUMBER.search(answer) is not None
    words = answer
    for mark in PUNCTUATION:  # each is looked for in the answer as it was
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        words = words.replace(mark, "" if attached or beside_space else " ")
    words = FULL_STOP.sub("", words, FULL_STOPS)
    kept = [word for word in (NUMBERS.get(word, word) for word in words.lower().split()) if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept).replace(",", "")


def answer_classes(majority_answers: Iterable[str], min_answers: int = MIN_ANSWERS) -> tuple[str, ...]:
    """The answers that become classes: normalised, given at least `min_answers` times, by first appearance."""
    counts = Counter(normalize_answer(answer) for answer in majority_answers)
    return tuple(answer for answer, count in counts.items() if count >= min_answers)


def soft_score(people: int) -> float:
    """What an answer is worth that so many of ten people gave."""
    return (0.0, 0.3, 0.6, 0.9)[people] if people < 4 else 1.0


def scored_answers(answers: Iterable[str], label_of: Mapping[str, int]) -> tuple[tuple[int, float], ...]:
    """(class, score) of each distinct answer to a question, by first appearance.

    Answers that are not classes are left out. They are compared as they were typed, not normalised, as in the program.
    """
    return tuple(
        (label_of[answer], soft_score(people)) for answer, people in Counter(answers).items() if answer in label_of
    )
