"""How answers are put into words: what `attcot_analysis.problems.reading` looks for."""

import re

WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters that are written without spaces between words, as a range of a character class."""

END = re.compile(r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|[^|<>\s]*\|>|</?(?:answer|think)>))+\s*\Z")
"""What ends a turn and may be left in a text."""

GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)
"""How models of the GLM-V family mark their answer."""

BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")

_KIND = (
    r"(?:(?:final|correct|right|best|better|most|likely|appropriate|accurate|fitting|plausible"
    r"|suitable|only)\s+)"
)
PHRASE = re.compile(
    rf"""
    # The answer is; the correct option would likely be; the best answer based on the image is:
    \b(?:{_KIND}+(?:option|choice)|{_KIND}*(?:answer|conclusion))
    (?:\s+(?:to|for|based\ on|here|among|from|given)\b[^.:\n]{{0,80}}?)?
    \s*(?:\b(?:is|was|(?:would|should|might|must|will|could|may)\ (?:likely\ )?be)\b|=)
    (?:\s+(?:\w+ly|indeed|still|therefore|thus|also|that|most|option|choice))*\s*[:,]?
    # Answer: at the start of a line, or anywhere with a capital.
    |^\W*(?:(?:the|my|so|short|{_KIND[3:-4]})\s+|therefore,?\s+)*(?:answer|ans|option|choice)\b[^\w\n:=-]*(?:[:=]|-(?=\s))
    |(?-i:\bAnswer)\s*:
    |\bleaves?\ (?:us\ |me\ |only\ )?with\b
    |\bI(?:'ll|'d|\s+would|\s+will)?\s+(?:choose|pick|select|go\ with)\b:?
    # Chinese, Japanese, Korean.
    |(?:\u7b54\u6848|\u6b63\u89e3|\u7b54\u3048|\u56de\u7b54|\uc815\ub2f5|\ub2f5)
     (?:[\u5e94\u61c9\u8be5\u8a72\u5c31]*[\u662f\u4e3a\u70ba\u9009\u9078][\u62e9\u64c7]?|\u306f|[\uc740\ub294]|\s*:)+
    |(?:\u7b54\u6848|\u6b63\u89e3|\uc815\ub2f5)(?=\s*[(\[]?[A-Za-z])|\u7b54\s*:
    |[\u9009\u9078](?:[\u62e9\u64c7\u9805\u9879\u662f\u4e3a]|\s*:)*(?=\s*[(\[]?[A-Za-z])
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
"""What an answer follows."""

ABSTRACT = re.compile(
    r"\W*(?:based|clear|obvious|found|determined|derived|in|to|because|visible|given)\b",
    re.IGNORECASE,
)
"""What follows "the answer is" where no answer does."""

_BEHIND = (
    rf"(?=\s*(?:$|[().:,;!?\]/&\"'\u3001\u3002]|-\s|[{WIDE}]"
    r"|(?:is|was|because|since|as|and|or|but)\b))"
)
LABEL = re.compile(
    rf"""
    (?<!\w)[(\[]\s*(?P<a>[A-Za-z])\s*[)\]]
    |\b(?i:option|choice|letter)\s+[(\[]?(?P<b>[A-Za-z])(?![\w'-])
    |(?:^|[(\[]\s*|[\u662f\u4e3a\u70ba\u9009\u9078\u62e9\u64c7\u306f\uc740\ub294]
      |(?:\b(?i:is|it's|be|choose|pick|select|say|think|believe|guess|so|therefore|thus|hence|with
      |either|both|neither|answer|ist|lautet|est|es)\b|[:=>\u2192]|[.!?]\s)[\s,:]*)(?P<c>[A-Z]){_BEHIND}
    |^(?P<d>[A-Za-z])(?=\s*[).:](?:\s|$))
    """,
    re.MULTILINE | re.VERBOSE,
)
"""An option's letter. A capital A before a word is the article."""

LISTED = re.compile(
    rf"(?:[,/&]|\b(?:and|or|nor)\b|[\u3001\u548c\u6216])\s*"
    rf"(?:(?:maybe|perhaps|possibly|also|even|option|choice)\s+)?[(\[]?([A-Z]){_BEHIND}"
)
"""A further letter behind a first one."""

LEAD = re.compile(
    rf"^[\s\"'*_`#>-]*(?:[(\[]\s*(?P<a>[A-Za-z])\s*[)\]]|(?P<b>[A-Za-z])\s*[).:])(?=\s|$|[{WIDE}])"
)
"""An option's letter at the start of a line, as lists write it."""

NOT = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|cannot|none of|rather than|instead of|except|unlike"
    r"|\w+n't)(?:\s+(?!but\b|only\b)[\w'-]+){0,3}?\s+|\u4e0d\u662f|\u4e0d|\u6ca1\u6709|\u5e76\u975e)"
    r"[(\"']?$",
    re.IGNORECASE,
)
NOT_BEHIND = re.compile(
    r"[)\].\"']?\s*(?:(?:is|are|was|seems|looks|can be)\s+(?:not|wrong|incorrect|false|eliminated"
    r"|ruled out|unlikely)\b|(?:isn't|aren't|wasn't|can't|cannot)\b"
    r"|\u3067\u306f\u306a\u3044|\u3058\u3083\u306a\u3044|[\uc774\uac00]? ?\uc544[\ub2c8\ub2cc])",
    re.IGNORECASE,
)
"""What negates the words before it."""

MARKED = re.compile(r"(?<!\w)[(\[]?([A-Za-z])\s?[)\].:\u3001](?=\s*\S)\s*")
"""The letter of an option in a question's list."""

UNKNOWN = re.compile(
    r"\b(?:(?:cannot|can't|can not|could not|unable to|impossible to|not possible to|difficult to)"
    r" (?:be )?(?:\w+ly )?(?:tell|determine|determined|say|know|known|answer|answered|identify)"
    r"|(?:don't|do not|does not|doesn't) know|not known|unknown)\b",
    re.IGNORECASE,
)
"""What says that there is no answer."""
