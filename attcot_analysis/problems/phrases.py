"""How answers are put into words: what `attcot_analysis.problems.reading` looks for."""

import re
import unicodedata

WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters that are written without spaces between words, as a range of a character class."""


END = re.compile(r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|[^|<>\s]*\|>|</?(?:answer|think)>))+\s*\Z")
"""What ends a turn and may be left in a text."""


GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)
"""How models of the GLM-V family mark their answer."""


BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


BETWEEN_BOXES = re.compile(r"(?:[\s$,;&.]|\\[()\[\]]|and|or)*", re.IGNORECASE)
"""What stands between boxes that give several answers at once."""


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
    |^\W*+(?:(?:the|my|so|short|{_KIND[3:-4]})\s+|therefore,?\s+)*(?:answer|ans|option|choice)\b[^\w\n:=-]*(?:[:=]|-(?=\s))
    |(?-i:\bAnswer)\s*:
    # "final_answer": as JSON writes it, or [Answer], wherever they stand.
    |["']\w*answer["']\s*:|[\[<](?:final\s+)?answer[\]>]:?
    |\bleaves?\ (?:us\ |me\ |only\ )?with\b
    |\bI(?:'ll|'d|\s+would|\s+will)?\s+(?:choose|pick|select|go\ with)\b:?
    |\bI(?:'d|\s+would)\s+(?:say|answer|guess)\b:?|\bI(?:'m|\s+am)\s+going\s+(?:with|for)\b:?
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
    rf"(?=\s*(?:$|[().:,;!?\]/&\"\u3001\u3002=\u2192]|'(?!\w)|->?\s|[{WIDE}]"
    r"|(?:is|was|because|since|as|and|or|but|not|rather|instead|i\.e)\b))"
)

LABEL = re.compile(
    rf"""
    (?<!\w)[(\[]\s*(?P<a>[A-Za-z])\s*[)\]]
    |\b(?i:option|choice|letter)\s+[(\[]?(?P<b>[A-Za-z])(?![\w'-])
    |(?:^["']?|[(\[]\s*|[\u662f\u4e3a\u70ba\u9009\u9078\u62e9\u64c7\u306f\uc740\ub294]
      |\u9879|\u9805
      |(?:\b(?i:is|it's|it|be|choose|pick|select|choosing|picking|selecting|say|think|believe|guess|so|therefore|thus|hence|with
      |leaves|but|either|both|neither|answer|ist|lautet|est|es|\u00e9|\u00e8)\b|[:=>\u2192]|[.!?]\s)
      [\s,:]*)(?P<c>[A-Z]){_BEHIND}
    |^(?P<d>[A-Za-z])(?=\s*[).:](?:\s|$))
    # B is correct, B fits best, B it is.
    |(?<![\w'])(?P<e>[A-HJ-Z])(?=\s+(?:it\ is\b|(?:best\ )?(?:fits|matches)\b
      |(?:is|(?:would|must|should)\ be|seems|looks|appears)(?:\ \w+ly)?(?:\ the|\ to\ be)?
      \ (?:correct|right|best|answer|only|most|it)\b))
    # ... red, B: behind what it stands for.
    |[,;]\s*(?P<f>[A-Z])(?=[\s.!)"*]*$)
    """,
    re.MULTILINE | re.VERBOSE,
)
"""An option's letter. A capital A before a word is the article."""


BARE = re.compile(r"\W*([B-HJ-Z])\s+(?=\w)")
"""A letter before words without any sign between them, where they are an option's."""


_SENTENCE = re.compile(r"(?:[^.!?;\n]|\.(?=\d))+")
_BUT = re.compile(r",?\s+(?:but|so|thus|therefore|hence|however)\b", re.IGNORECASE)
_ANSWER = re.compile(r"\b(?:answer|option|choice)\b|\\boxed", re.IGNORECASE)
_WOULD = re.compile(r"\b(?:would|could|might)\b|'d\b", re.IGNORECASE)
_WAS = r"\b(?:were|was|weren't|wasn't|had|been|did|didn't)\b"
_SUPPOSES = re.compile(
    rf"(?P<if>(?:\b(?:if|unless)|\A\W*had)\b(?=.*{_WAS})|\botherwise\b)"
    r"|\bif you (?:mean|meant|refer|are asking|are referring|were asking)\b"
    r"|\b(?:answer|option|choice)\b[^,]{0,20}\bwould (?:have been|be)\b[^,]{0,40}? (?:if|had)\b"
    rf"(?=.*{_WAS})"
    r"|\b(?:some|one|you|people|others|many) (?:might|may) (?:\w+ )?"
    r"(?:say|think|argue|assume|believe|guess|choose|pick)\b",
    re.IGNORECASE,
)
"""What begins an answer that is not the speaker's: "if it were", "some might say"."""
_CALL = re.compile(r"<(tool_call|tool_response|tool_code|function_call)>.*?(?:</\1>|\Z)", re.DOTALL)


_CROSSED = re.compile(r"(?m)^[^\n]*[\u274c\u274e\u2717\u2718][^\n]*")
"""A line with a cross."""


def asserted(text: str) -> str:
    """A text with blanks for what is none of its answers.

    That are calls of tools, lines that are crossed out, and what would be right otherwise.
    """

    def blanks(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    def said(found: re.Match[str]) -> str:
        sentence = found[0]
        begin = _SUPPOSES.search(sentence) if len(sentence) < 500 else None
        if begin is None:
            return sentence
        start, end = begin.start(), _BUT.search(sentence, begin.end())
        stop = end.start() if end else len(sentence)
        if not _ANSWER.search(sentence, start, stop) or (
            begin["if"] and not _WOULD.search(sentence, start, stop)
        ):
            return sentence
        return sentence[:start] + " " * (stop - start) + sentence[stop:]

    text = _CALL.sub(blanks, text)
    rest = _SENTENCE.sub(said, _CROSSED.sub(blanks, text))
    return rest if re.search(r"\w", rest) else text


SAID = re.compile(
    r"\W*(\w+)(?:\s*(?:/|and|or)\s*(\w+))?(?! (?:doubt|idea|clue|problem|wonder|worries)\b"
    r"|(?: \w+){0,2} (?:image|picture|photo|information|answer)s?\b)"
)
"""The first word; that of "no doubt" and "no image was given" says nothing about yes or no."""


REVISED = re.compile(
    r"(?:^|(?<=[.!?]\s))"
    r"(?:(?:wait|actually|no(?=,)|sorry|correction|on second thought|scratch that)\b[\s,:-]*)+",
    re.IGNORECASE,
)
"""What takes back the answer before it."""


REASON = re.compile(
    r"\W*(?:(?:this|that|it) (?:is|was) (?:because|since|due to)|because|the reason"
    r"|(?:in|by) contrast|meanwhile|whereas)\b",
    re.IGNORECASE,
)
"""What begins a line that gives a reason, in which other options are named."""


RANKED = re.compile(r"(?<!\w)[A-Z]\s*>\s*[A-Z](?!\w)")
"""Letters in an order: B > A."""


ITEM = re.compile(r"[ \t]*(?:[-*\u2022]|\d+[.)])[ \t]+")
"""What begins an item of a list."""


JOINED = re.compile(
    r"[\W_]*(?:(?:(?:which|that|it|this)\s+(?:is|means)|i\.?e|namely|meaning|so|means"
    r"|(?:is|are)(?:\s+the\s+one\s+(?:that|which)\s+(?:is|are))?)\b[\W_]*)?"
    r"(?:(?:it|this|that)\s+is\b|(?:the\s+)?(?:answer|option|choice)\b(?:\s+is\b)?)?[\W_]*",
    re.IGNORECASE,
)
"""What may stand between an option's letter and its words."""


LISTED = re.compile(
    rf"(?:[,;/&]|\b(?:and|or|nor)\b|[\u3001\u548c\u6216])\s*"
    rf"(?:(?:maybe|perhaps|possibly|also|even|option|choice)\s+)?[(\[]?([A-Z]){_BEHIND}"
)
"""A further letter behind a first one."""


LEAD = re.compile(
    rf"^[\s\"'*_`#>-]*(?:[(\[]\s*(?P<a>[A-Za-z])\s*[)\]]|(?P<b>[A-Za-z])\s*[).:])(?=\s|$|[{WIDE}])"
)
"""An option's letter at the start of a line, as lists write it."""


NOT = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|cannot|none of|rather than|instead of|except|unlike"
    r"|anything but"
    r"|\w+n't)(?:\s+(?!but\b|only\b)[\w'-]+){0,3}?\s+|\u4e0d\u662f|\u4e0d|\u6ca1\u6709|\u5e76\u975e"
    r"|\b(?:(?:eliminat|exclud|reject|dismiss|discard)\w+|rul\w+ out)"
    r"(?:\s+(?:the|both|option|choice|answer|letter)s?)*\s+)[(\"']?$",
    re.IGNORECASE,
)

NOT_BEHIND = re.compile(
    r"[)\].\"']?\s*(?:(?:is|are|was|seems|looks|can be)\s+(?:not|wrong|incorrect|false|eliminated"
    r"|ruled out|unlikely)\b|(?:isn't|aren't|wasn't|can't|cannot)\b"
    r"|(?:does not|do not|doesn't|don't)\s+(?:\w+ly\s+)?(?:match|fit|apply|make sense"
    r"|correspond|align)\b"
    r"|(?:\u9009\u9879|\u9879)?(?:\u662f|\u5747|\u90fd|\u4e5f)?(?:\u4e0d(?:\u5bf9|\u6b63\u786e|\u7b26|\u6210\u7acb"
    r"|\u5408\u9002|\u5339\u914d)|\u9519|(?:\u53ef\u4ee5|\u88ab)?\u6392\u9664)"
    r"|\u3067\u306f\u306a\u3044|\u3058\u3083\u306a\u3044|[\uc774\uac00]? ?\uc544[\ub2c8\ub2cc])",
    re.IGNORECASE,
)
"""What negates the words before it."""


MARKED = re.compile(r"(?<!\w)[(\[]?([A-Za-z])\s?[)\].:\u3001](?=\s*\S)\s*")
"""The letter of an option in a question's list."""


PLACE = re.compile(r"(?<![\w.])[(\[]?(\d{1,2})[).:\]]\s+")
"""The number of an option in a question's list."""


UNKNOWN = re.compile(
    r"\b(?:(?:cannot|can't|can not|could not|unable to|impossible to|not possible to|difficult to)"
    r" (?:be )?(?:\w+ly )?(?:tell|determine|determined|say|know|known|answer|answered|identify)"
    r"|too \w+ to (?:tell|determine|say|count|read|see|identify|make out)"
    r"|(?:don't|do not|does not|doesn't) know|not known|unknown)\b",
    re.IGNORECASE,
)
"""What says that there is no answer."""


_RAISED = str.maketrans({sign: f"^{at % 10}" for at, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉")})

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        "\u2044": "/",
    }
)

_LATEX = (
    (r"(?<=\d)\s*(?=\\[dt]?frac)", " "),
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
    (r"\\[dt]?frac\s*(\d)\s*(\d)", r"\1/\2"),
    (
        r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:bf|rm|it|sf|tt)|mbox|operatorname)\s*\{([^{}]*)\}",
        r"\1",
    ),
    (r"\\(?:fbox|framebox)(?=\s*\{)", r"\\boxed"),
    (r"\\boxed\s+([A-Za-z0-9])(?!\w)", r"\\boxed{\1}"),
    (r"\{,\}", ","),
    (r"(?:\\sqrt|\u221a)\s*(\d+|[a-z]\b)", r"\\sqrt{\1}"),
    (r"(?<![^\W\d_])\u03c0(?![^\W\d_])", r"\\pi"),
    (r"(?<=\d)\s+(?=\\(?:pi|sqrt)\b)", ""),
    (r"(?<=\d)\s*(?:[x\u00d7*]|\\times|\\cdot)\s*10\s*\^\s*\{?([-+]?\d+)\}?", r"e\1"),
    (r"\\[()\[\],;! ]|(?<!\w)\$(?=\D)|\$$|(?<=\d)\$|\\(?=[%$])|\$(?=[^$\n]*\$)", ""),
)


def one_form(text: str) -> str:
    """A text in one Unicode form, without runs of white space and surrounding punctuation.

    Raised and lowered digits stay apart from others; a text of punctuation stays as it is.
    """
    text = " ".join(unicodedata.normalize("NFKC", text.translate(_RAISED)).split())
    return text.strip(" .,;:!?'\"`*()[]{}\u2018\u2019\u201c\u201d\u3001\u3002\u300c\u300d") or text


def plain_text(text: str) -> str:
    """A text with one form for each sign: full-width forms, quotes, minus signs, LaTeX."""
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text.translate(_RAISED))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    for pattern, new in _LATEX:
        text = re.sub(pattern, new, text)
    text = re.sub(r"(?<=\d) ?/ ?(?=\d)", "/", text)
    return re.sub(r"(?<![a-z])(?:minus|negative) (?=\.?\d)", "-", text, flags=re.IGNORECASE)
