"""Captions into words, the way the field's caption scores expect them.

See docs/published_system.md#caption-scores.
pycocoevalcap pipes captions through Stanford's PTBTokenizer (Java; `-preserveLines -lowerCase`) and
then drops punctuation tokens. `ptb_words` gives the same words in pure Python. Its rules were found
by feeding that program probes; tests/ops/test_ptb.py compares with recorded output.
"""

from __future__ import annotations

import re
import unicodedata

_NORMALISED = str.maketrans(
    {"’": "'", "›": "'", "‘": "`", "‛": "`", "‹": "`", "“": '"', "”": '"', "«": '"', "»": '"'}
    | {"–": " -- ", "—": " -- ", "―": " -- ", "…": " ... ", "\xad": " "}
    | {"½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "}
    | {"£": " # ", "€": " $ ", "¤": " $ ", "¢": " cents "}
    | {sign: f" {sign} " for sign in "¹²³"}  # letters to Python's \w, words of their own here
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
# pycocoevalcap lists -LRB- ... -RCB- as punctuation too, but never meets them in capitals: it keeps
# brackets. It also keeps what is not in its list, such as "??" and "!!!".
_DROPPED = re.compile(r"[\"'`,:;?!]|\.+|-+|[\U00010000-\U0010ffff\ufe0f]")
_BRACKETS = dict(zip("()[]{}", ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"], strict=True))


def _any_of(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


# words that keep their full stop: everywhere, only if capitalised, only in front of a number
_ABBREVIATION = _any_of(
    """adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros
    calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens
    esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan
    kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg
    natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd rep reps
    rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues
    univ va vs vt wed wis wisc wm wyo"""
)
_CAPITALISED = _any_of("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
_NUMBERED = _any_of("art ca fig figs no nos op pp prop")
# "plan B. The dog": the full stop of a single letter ends the sentence in front of these
_STARTER = _any_of(
    """A About After An As At But He Her Here However If In It Last Many More Once One Other Our She
    Since So Some That The Their Then There These They This We What When While Yet You"""
)

_L = r"[^\W\d_]"  # a letter
_A = r"[^\W_]"  # a letter or a digit
_END = rf"(?!{_A})"
# d'oeuvre, o'clock, B'day, but not I'll
_FOREIGN = rf"(?:[dlno]|(?-i:[A-Z]))'(?!(?:ll|re|ve){_END}){_L}{{2,}}"
_PART = rf"(?:{_FOREIGN}|{_A}+)"
_PARTS = rf"{_PART}(?:-{_PART})*"

# The first pattern that matches wins, so of two that can start alike the longer one stands first.
_TOKEN = re.compile(
    "|".join(
        [
            r"</?[a-z!?](?!ttps?:)[^<>]*>",  # <unk>, <br/>
            r"https?://[^\s\"<>()]+",
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*",  # me@example.org
            r"[@#][a-z]\w*",
            rf"[:;=]-?[()dp]{_END}",  # :-)
            # t-shirt, 10-year-old, 1,000-foot, U.S.-based, black-and-white/grey
            rf"{_A}(?:{_A}|[.,])*(?:-(?:(?:{_L}\.){{2,}}|{_PART}))+(?:/{_PARTS}){{0,2}}",
            rf"{_L}(?:\.{_L})+(?!{_A}|\.{_A})\.?|ph\.d\.",  # u.s., a.k.a
            rf"{_PART}(?:/{_PARTS}){{1,2}}",  # and/or, 1/2, red/blue-green
            r"(?-i:(?:US|HK|A|C)\$)",
            r"(?-i:[A-Z]+(?:&[A-Z]+)+)",  # AT&T, but not a&b
            rf"{_L}+(?:\.{_L}+)+",  # two sentences without a space between them are one word
            r"\.{2,}",
            r"[+-]?\d*(?:[.,:]\d+)+|[+-]\d+",  # 5:30, 1,000.5, -5; before the m of 1.5m
            rf"{_ABBREVIATION}\.(?!{_L})|(?-i:{_CAPITALISED})\.|{_NUMBERED}\.(?= ?\d)",
            # what follows a caption is, in practice, a caption that starts with a starter
            rf"{_L}\.(?!{_L}|\s*$|(?-i: {_STARTER}\s))",
            rf"can(?=not{_END})|(?:gon|wan)(?=na{_END})|got(?=ta{_END})|(?:lem|gim)(?=me{_END})",
            rf"{_L}+(?=n['`]t{_END})|n['`]t{_END}",  # does n't
            rf"(?:anti|pro)-{_END}",
            rf"{_FOREIGN}|ol'|[jy]'(?={_L})|d'|c'mon|s'mores|e'er|{_L}*li'l|nat'l|cap'n|qu'{_L}+",
            rf"{_L}+[aeiouy]'[aeiouy]{_L}*|{_L}+!{_L}+",  # ma'am, hawai'i
            rf"{_A}+(?:_{_A}+)*",
            rf"'(?:s|m|d|ll|re|ve){_END}|'t(?=is|was)|'(?:em|till?)|'(?:cause|n){_END}'?",
            rf"'[2-9]0s{_END}|'\d\d(?=\s|$)",  # '60s, '05
            r"[?!]+|_+|#+|\*+|-+|<<|>>",
            r"\S",
        ]
    ),
    re.IGNORECASE,
)


def ptb_words(caption: str) -> list[str]:
    """The lower-case words of a caption, punctuation left out.

    Equal to pycocoevalcap's tokenizer on all 40,460 captions of Flickr8k and on 500 of COCO; of
    30,000 captions mutated at random (special words, stray punctuation, missing spaces) 0.3 %
    differ. Known differences: emoticons other than :) and ;-p, web addresses without http,
    telephone numbers in brackets, and a single letter at the end of a caption ("... the letter
    T."), where the Java program looks at the first word of whatever caption it was given next.

    Args:
        caption: any text; line breaks count as spaces.

    Returns:
        Words: "A man's hat, (red)." gives `["a", "man", "'s", "hat", "-lrb-", "red", "-rrb-"]`.
    """
    text = unicodedata.normalize("NFC", caption).translate(_NORMALISED)
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return [_spelled(word) for word in _TOKEN.findall(text) if not _DROPPED.fullmatch(word)]


def ptb_tokenize(caption: str) -> str:
    """`ptb_words` joined by single spaces: what BLEU, ROUGE-L and CIDEr take."""
    return " ".join(ptb_words(caption))


def _spelled(word: str) -> str:
    return "".join(_BRACKETS.get(character, character) for character in word.lower())
