"""fixtures/text_metrics.json: predictions, references, and what rouge-score and sacrebleu make of them."""

import sacrebleu
from rouge_score import rouge_scorer

from common import write_json

# Each case: pairs of a prediction and its references.
CASES = {
    "equal": [("The lighthouse keeper counted nine ships.", ["The lighthouse keeper counted nine ships."])],
    "nothing_shared": [("green apples", ["a quiet harbour at dawn"])],
    "empty_prediction": [("", ["a quiet harbour at dawn"])],
    "empty_reference": [("a quiet harbour", [""])],
    "both_empty": [("", [""])],
    "only_blanks": [(" \t\n", ["  "]), ("a b c d e", ["a b c d e"])],
    "one_word": [("harbour", ["harbour"])],
    "two_words": [("quiet harbour", ["quiet harbour"])],
    "three_words": [("a quiet harbour", ["a quiet harbour"])],
    "short_among_long": [
        ("no", ["no"]),
        ("the boats came home before the storm did", ["the boats came home before the big storm"]),
    ],
    "repeated_ngrams": [
        ("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
        ("a a b a a b a a b", ["a a b a b b"]),
    ],
    "order_matters": [("d c b a e f g", ["a b c d e f g"]), ("one two three four", ["four three two one"])],
    "brevity": [("the harbour was", ["the harbour was silent and the gulls had gone inland for the night"])],
    "length_between_references": [
        ("the harbour was silent all night", ["the harbour was silent", "the harbour was silent all night long at last"]),
    ],
    "no_four_grams_right": [("one two three nine five six", ["one two three four five six"])],
    "only_words_right": [("six four two one", ["one two three four five six"])],
    "case": [("THE Harbour WAS Silent tonight", ["the harbour was silent Tonight"])],
    "punctuation": [
        ('He said: "wait..., no!" (twice) -- and left; why?', ['He said, "wait... no!" twice - and left: why?']),
        ("1,234.56 is 50% of 2,469.12, and 7-8 isn't A-B.", ["1,234.56 is 50 % of 2,469.12 and 7-8 isn't A-B ."]),
        ("e.g. x.y,z 3.,4 .5 6. a.,b ....", ["e.g. x.y, z 3., 4 .5 6. a., b ..."]),
        ("[a]{b}~c^d_e`f|g\\h/i<j>k=l@m#n$o&p*q+r", ["[a] {b} ~c ^d _e `f |g \\h /i <j >k =l @m #n $o &p *q +r"]),
    ],
    "entities": [
        ("Fish &amp; chips &lt;hot&gt; &quot;now&quot; &nbsp; &amp;lt;", ['Fish & chips <hot> "now" & nbsp ; &lt;']),
        ("a <skipped> b hyphen-\nated\nline", ["a b hyphenated line"]),
    ],
    "unicode": [
        ("Café Ångström naïve İstanbul straße", ["café ångström naive istanbul strasse"]),
        ("日本語 の テスト です", ["日本語 の 試験 です"]),
        ("Kelvin \u212a sign, “quotes” — dash… ½", ["kelvin k sign “quotes” – dash … 1/2"]),
        ("no\u00a0break ideographic\u3000space a\u001cb\u0085c", ["no break ideographic space a b c"]),
        ("🙂 emoji 👩‍👩‍👧 family", ["🙂 emoji family"]),
    ],
    "digits_and_dashes": [("2020-21 3-d 4--5 -6 7- ٣-٤", ["2020 - 21 3 -d 4 - - 5 -6 7 - ٣-٤"])],
    "trailing_blanks": [("ends with a line \n\n", ["ends with a line"]), ("under_score x_1", ["under score x 1"])],
    "several_references": [
        ("the gulls had gone inland", ["gulls went inland", "the gulls had left", "all gulls had gone inland by night"]),
        ("nine ships were counted", ["he counted nine ships", "nine ships were there", "ships, nine, were counted"]),
    ],
    "a_longer_text": [
        (
            "The keeper climbed the stairs of the lighthouse. At the top, he lit the lamp and wrote down the names "
            "of the ships that passed; there were nine of them, and none stopped.",
            [
                "Climbing the lighthouse stairs, the keeper lit the lamp at the top. He wrote down the names of nine "
                "passing ships. None of them stopped, and he was not surprised."
            ],
        )
    ],
}
TYPES = ["rouge1", "rouge2", "rougeL"]


def make():
    write_json("text_metrics.json", [case(name, pairs) for name, pairs in CASES.items()])


def case(name, pairs):
    scorer = rouge_scorer.RougeScorer(TYPES)
    scores = [scorer.score_multi(references, prediction) for prediction, references in pairs]
    values = {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in TYPES}
    width = {len(references) for _, references in pairs}
    columns = [[r[i] if i < len(r) else None for _, r in pairs] for i in range(max(width))]
    values["bleu"] = sacrebleu.corpus_bleu([prediction for prediction, _ in pairs], columns).score
    return {"name": name, "predictions": [p for p, _ in pairs], "references": [r for _, r in pairs]} | values
