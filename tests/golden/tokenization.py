"""fixtures/tokenizers.json: texts, pairs and lengths, and the ids that Transformers' fast tokenisers give.

The vocabularies of BERT and RoBERTa are read from ../shared (a sibling of the repository) and not copied; small ones
are made here, one for each way in which a model folder may bring its tokeniser.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizerFast, RobertaTokenizerFast

from common import fresh, write_json

SHARED = Path(__file__).resolve().parents[3] / "shared"

TEXTS = [
    "",
    " ",
    "Hello world!",
    "  two leading spaces",
    "a trailing space ",
    "tabs\tand\nnewlines\r\n and   runs",
    "Café, naïve Ångström, ÀÉÎÕÜ; coöperate",
    "combining e\u0301 and n\u0303",
    "İstanbul, straße, ﬁne, Ⅷ, ª",
    "日本語のテスト and 中文字符",
    "한국어 Привет, мир! مرحبا שלום नमस्ते",
    "I 😀 emoji 👩‍👩‍👧 and 🇫🇷🏳️‍🌈",
    "zero\u200bwidth, nul\u0000, bell\u0007, bom\ufeff, soft\u00adhyphen, replacement\ufffd",
    "no\u00a0break and ideographic\u3000space, line\u2028separator, vertical\u000btab",
    "don't can't I'll we've he'd DON'T",
    "12,345.67 $99 50% 3.14e-10 1/2 x²+y³≠∞",
    "punctuation...!? — “quotes” ‘single’ «angle» `tick` ~^_|\\",
    "http://example.com/a?b=c&d=e#f user@mail.org",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101,
    "[CLS] a [MASK] b [SEP] [PAD] [UNK] [mask]",
    "<s> a <mask> b </s> <pad> <unk> a<mask>b",
    "UPPER lower MiXeD camelCase snake_case",
    "##ing ##s word##piece Ġword",
    "it 's a charming and often affecting journey . ",
    "\ud7a3 \U0001f600\U00020000 \u00e9\u0327",
]
LONG = "a gorgeous , witty , seductive movie that somehow pulls it off , despite its unlikely premise"
MEDIUM = "the film 's unhurried pace works well"
SHORT = "not bad"
SINGLES = [(LONG, n) for n in (2, 3, 8, 9, 16)] + [(MEDIUM, n) for n in (8, 9, 16)] + [(SHORT, 8), ("", 8)]
PAIRS = [(LONG, MEDIUM), (MEDIUM, LONG), (LONG, LONG), (SHORT, LONG), (LONG, SHORT), (SHORT, MEDIUM), ("", SHORT)]
PAIR_LENGTHS = (None, 8, 9, 16)


def make():
    folder = fresh("tokenizers")
    bert, roberta = SHARED / "data/tokenizers/bert-uncased", SHARED / "data/tokenizers/roberta-base"
    entries = [
        entry("bert-uncased", "shared", bert, BertTokenizerFast(str(bert / "vocab.txt"), do_lower_case=True)),
        entry("roberta-base", "shared", roberta, roberta_tokenizer(roberta)),
        tiny_wordpiece(folder, do_lower_case=True),
        tiny_wordpiece(folder, do_lower_case=False),
        tiny_byte_bpe(folder),
        tiny_json(folder),
    ]
    same_ids(entries[1]["cases"], AutoTokenizer.from_pretrained(roberta))
    write_json("tokenizers.json", entries, depth=3)


def entry(name, where, folder, tokenizer, **more):
    """`folder` is relative to `where`: ../shared beside the repository, or the fixtures."""
    root = SHARED if where == "shared" else Path.cwd()
    cases = [encode(tokenizer, text) for text in TEXTS]
    cases += [encode(tokenizer, text, max_length=length) for text, length in SINGLES]
    cases += [encode(tokenizer, a, b, length) for a, b in PAIRS for length in PAIR_LENGTHS]
    return {"name": name, "where": where, "folder": str(folder.resolve().relative_to(root))} | more | {"cases": cases}


def encode(tokenizer, text, pair=None, max_length=None):
    truncation = {"truncation": "longest_first", "max_length": max_length} if max_length else {}
    output = tokenizer(text, pair, return_token_type_ids=True, return_attention_mask=True, **truncation)
    return {"text": text, "pair": pair, "max_length": max_length} | dict(output)


def same_ids(cases, tokenizer):
    for case in cases:
        assert encode(tokenizer, case["text"], case["pair"], case["max_length"])["input_ids"] == case["input_ids"], case


def roberta_tokenizer(folder):
    """As Transformers 4 built it and as the published tokenizer.json is: the mask takes the space before it."""
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    return RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), mask_token=mask)


def tiny_wordpiece(folder, do_lower_case):
    """vocab.txt, and a tokenizer_config.json that says whether to lower the case."""
    folder = fresh(folder / ("wordpiece-uncased" if do_lower_case else "wordpiece-cased"))
    words = "hello world Hello the a movie film not bad it ' s off well pace work , . ! ? ing ed 中 é".split()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = ["##" + piece for piece in [*letters, "s", "ing", "ed", "ous", "ty", "ie"]]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *pieces]
    vocabulary = list(dict.fromkeys(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": do_lower_case, "tokenizer_class": "BertTokenizer"})
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=do_lower_case)
    return entry(folder.name, "fixtures", folder, tokenizer)


def tiny_byte_bpe(folder):
    """vocab.json and merges.txt, with RoBERTa's special tokens."""
    folder = fresh(folder / "byte-bpe")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([LONG, MEDIUM, SHORT, *TEXTS], trainer)
    tokenizer.model.save(str(folder))
    return entry(folder.name, "fixtures", folder, roberta_tokenizer(folder))


def tiny_json(folder):
    """A tokenizer.json like XLM-RoBERTa's, with padding and truncation stored in it, which are to be ignored."""
    folder = fresh(folder / "unigram-json")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = "▁hello ▁world ▁the ▁a ▁movie ▁film ▁not ▁bad ▁it ▁off ▁well ▁pace ▁work s ing ed ous ▁".split()
    pieces = [*words, *map(chr, range(ord("a"), ord("z") + 1)), *"HW,.!?'"]
    scores = [(piece, -1.0 - 0.25 * rank) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in special] + scores, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(max_length=6)
    tokenizer.enable_padding(length=12, pad_id=1, pad_token="<pad>")
    tokenizer.save(str(folder / "tokenizer.json"))
    return entry(folder.name, "fixtures", folder, AutoTokenizer.from_pretrained(folder))
