use lowrank::data::Tokenizer;
use lowrank::data::language::{
    CausalDataset, Completion, Document, Rows, Seq2SeqDataset, Seq2SeqLengths, SourceTarget,
};

fn tokenizer(name: &str) -> Option<Tokenizer> {
    crate::shared(name).map(|folder| Tokenizer::from_folder(folder).unwrap())
}

/// Byte-level BPE without a token before a text, as GPT-2's.
fn gpt2() -> Option<Tokenizer> {
    tokenizer("data/tokenizers/gpt2")
}

/// SentencePiece's BPE with a token before each text, as Llama's.
fn llama() -> Option<Tokenizer> {
    tokenizer("data/weights/stories260K")
}

fn rows<T>(rows: impl IntoIterator<Item = T>) -> Rows<T> {
    Rows { path: "data.jsonl".into(), rows: rows.into_iter().collect() }
}

fn documents(texts: &[&str]) -> Rows<Document> {
    rows((1..).zip(texts).map(|(line, text)| Document { text: (*text).to_owned(), line }))
}

fn completion(prompt: &str, completion: &str) -> Rows<Completion> {
    rows([Completion { prompt: prompt.to_owned(), completion: Some(completion.to_owned()), line: 5 }])
}

#[test]
fn the_tokens_that_begin_and_end_a_text_are_known() {
    if let Some(gpt2) = gpt2() {
        assert_eq!((gpt2.eos_id(), gpt2.bos_id()), (Some(50256), None));
        assert_eq!(gpt2.special_tokens(), ["<|endoftext|>"]);
    }
    if let Some(llama) = llama() {
        assert_eq!((llama.bos_id(), llama.eos_id()), (Some(1), Some(2)));
    }
    let Some(mistral) = crate::fixtures("chat/mistral") else { return };
    let tokenizer = Tokenizer::from_folder(&mistral).unwrap();
    assert_eq!(tokenizer.eos_id(), tokenizer.id("</s>"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(mistral.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let id = |json: &str| {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        Tokenizer::from_folder(folder.path()).unwrap().eos_id()
    };
    assert_eq!(id("{\"eos_token_id\": [7, 8]}"), Some(7));
    assert_eq!(id("{\"eos_token_id\": 9}"), Some(9));
    assert_eq!(id("{\"eos_token_id\": 99999999}"), tokenizer.id("</s>"));
}

#[test]
fn packed_documents_are_one_stream_cut_into_blocks() {
    for tokenizer in [gpt2(), llama()].into_iter().flatten() {
        let texts = ["Once upon a time", "a", "There was a little girl who liked to play."];
        let end = tokenizer.eos_id().unwrap();
        let mut stream = Vec::new();
        for text in texts {
            stream.extend(tokenizer.encode(text, None, 99).unwrap().ids);
            stream.push(end);
        }
        let data = CausalDataset::from_documents(&tokenizer, &documents(&texts), 5, true, true).unwrap();
        let joined: Vec<u32> = data.iter().flat_map(|example| example.ids).copied().collect();
        let kept = stream.len() - usize::from(stream.len() % 5 == 1);
        assert_eq!(joined, stream[..kept]);
        assert!(data.iter().take(data.len() - 1).all(|example| example.ids.len() == 5));
        assert!(data.iter().all(|e| !e.targets[0] && e.targets[1..].iter().all(|&target| target)));
        assert_eq!((data.targets(), data.tokens()), (kept - data.len(), kept));
        assert_eq!((data.longest(), data.get(0).unwrap().line, data.get(data.len()).is_none()), (5, 1, true));
        assert_eq!(data.get(data.len() - 1).unwrap().line, 3);
    }
}

#[test]
fn ragged_documents_stand_by_themselves_and_lose_nothing() {
    let Some(tokenizer) = llama() else { return };
    let texts = ["Once upon a time", "", "There was a little girl who liked to play with her friends."];
    let data = CausalDataset::from_documents(&tokenizer, &documents(&texts), 8, false, false).unwrap();
    assert_eq!((data.skipped, data.truncated, data.longest()), (1, 0, 8));
    for line in [1, 3] {
        let ids: Vec<u32> = data
            .iter()
            .filter(|example| example.line == line)
            .flat_map(|example| example.ids)
            .copied()
            .collect();
        let mut expected = tokenizer.encode(texts[line - 1], None, 99).unwrap().ids;
        expected.push(2);
        expected.truncate(expected.len() - usize::from(expected.len() % 8 == 1));
        assert_eq!(ids, expected);
    }
    let text = CausalDataset::from_documents(&tokenizer, &documents(&texts), 8, false, true).unwrap_err();
    assert!(text.to_string().starts_with("data.jsonl:2: it has no text"), "{text}");
    let text = CausalDataset::from_documents(&tokenizer, &documents(&texts), 1, true, false).unwrap_err();
    assert!(text.to_string().contains("data.max_length"), "{text}");
}

/// A completion's tokens, and its learnt ones as text.
fn learnt(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> (Vec<u32>, String) {
    let data = CausalDataset::from_completions(tokenizer, &completion(prompt, answer), 99, true).unwrap();
    let example = data.get(0).unwrap();
    let targets = example.ids.iter().zip(example.targets).filter(|(_, target)| **target);
    let ids: Vec<u32> = targets.map(|(&id, _)| id).collect();
    assert_eq!(ids.last(), tokenizer.eos_id().as_ref());
    let text: String = tokenizer.tokens(&ids[..ids.len() - 1]).concat();
    (example.ids.to_vec(), text)
}

#[test]
fn a_completion_is_learnt_in_the_tokens_of_the_whole_text() {
    for tokenizer in [gpt2(), llama()].into_iter().flatten() {
        for (prompt, answer) in [
            ("The sky is", " blue"),
            ("The sky is ", "blue"),
            ("Q: 2+2?\n", "4"),
            ("Q: 2+2?\n\n", "\n4"),
            ("日本", "語 😀"),
            ("😀 é", "\u{301} é"),
            ("", "all of it"),
            ("a", ""),
            ("un", "happy"),
            ("a  ", "  b"),
        ] {
            let (ids, _) = learnt(&tokenizer, prompt, answer);
            let mut expected = tokenizer.encode(&format!("{prompt}{answer}"), None, 99).unwrap().ids;
            expected.push(tokenizer.eos_id().unwrap());
            assert_eq!(ids, expected, "{prompt:?} {answer:?}");
        }
    }
}

#[test]
fn only_tokens_with_letters_of_the_completion_are_learnt() {
    if let Some(gpt2) = gpt2() {
        for (prompt, answer, expected) in [
            ("The sky is", " blue", "Ġblue"),
            // The blank of the prompt and the completion are one token, and that is learnt.
            ("The sky is ", "blue", "Ġblue"),
            ("Q: 2+2?\n", "4", "4"),
            ("Q:", "   4", "ĠĠĠ4"),
            ("日本", "語", "èªŀ"),
            ("a", "", ""),
        ] {
            assert_eq!(learnt(&gpt2, prompt, answer).1, expected, "{prompt:?} {answer:?}");
        }
    }
    let Some(llama) = llama() else { return };
    for (prompt, answer, expected) in [
        ("The sky is", " blue", "▁blue"),
        ("The sky is ", "blue", "▁blue"),
        ("Once.\n", "x", "x"),
        ("a", "日", "<0xE6><0x97><0xA5>"),
        ("日", "本", "<0xE6><0x9C><0xAC>"),
    ] {
        assert_eq!(learnt(&llama, prompt, answer).1, expected, "{prompt:?} {answer:?}");
    }
}

#[test]
fn a_prompt_that_leaves_no_room_is_counted_or_an_error() {
    let Some(tokenizer) = llama() else { return };
    let long = completion("There was a little girl who liked to play", " with");
    let make = |length, strict| CausalDataset::from_completions(&tokenizer, &long, length, strict);
    let whole = make(99, true).unwrap();
    let prompt = whole.tokens() - whole.targets();
    let cut = make(prompt + 1, true).unwrap();
    assert_eq!((cut.targets(), cut.truncated, cut.skipped), (1, 1, 0));
    let none = make(prompt, false).unwrap();
    assert_eq!((none.len(), none.truncated, none.skipped, none.longest()), (0, 0, 1, 0));
    let text = make(prompt, true).unwrap_err().to_string();
    assert!(
        text.starts_with("data.jsonl:5: ")
            && text.contains(&format!("the {prompt} tokens of data.max_length")),
        "{text}"
    );
    assert_ne!(whole.fingerprint(), cut.fingerprint());
    assert_eq!(whole.largest_id(), whole.get(0).unwrap().ids.iter().copied().max());
}

#[test]
fn sources_and_targets_end_and_are_cut_to_their_lengths() {
    let Some(t5) = tokenizer("data/tokenizers/t5") else { return };
    let pair = |source: &str, target: Option<&str>, line| SourceTarget {
        source: source.to_owned(),
        target: target.map(str::to_owned),
        line,
    };
    let data = rows([
        pair("Hello world!", Some("Hello"), 1),
        pair("summarize: Hello world! Hello world!", Some("Hello world!"), 2),
        pair("", Some(""), 3),
        pair("x", None, 4),
    ]);
    let lengths = Seq2SeqLengths { source: 6, target: 3 };
    let data = Seq2SeqDataset::new(&t5, &data, lengths).unwrap();
    let get = |index| {
        let example = data.get(index).unwrap();
        (example.source.to_vec(), example.target.to_vec(), example.line)
    };
    assert_eq!(get(0), (vec![8774, 296, 55, 1], vec![8774, 1], 1));
    assert_eq!((get(1).0.len(), get(1).0[5], get(1).1.as_slice(), get(1).2), (6, 1, &[8774, 296, 1][..], 2));
    assert_eq!(get(2), (vec![1], vec![1], 3));
    assert_eq!((get(3).1, data.get(4).is_none()), (vec![], true));
    assert_eq!((data.truncated_sources, data.truncated_targets), (1, 1));
    let cut: Vec<bool> = data.iter().map(|example| example.truncated).collect();
    assert_eq!((data.truncated(), cut), (1, vec![false, true, false, false]), "both sides are one example's");
    assert_eq!((data.len(), data.longest(), data.largest_id().unwrap() > 8000), (4, lengths, true));
    assert_eq!(data.tokens().1, 6);
    let none = Seq2SeqLengths { source: 6, target: 0 };
    let text = Seq2SeqDataset::new(&t5, &rows([pair("a", Some("b"), 1)]), none).unwrap_err().to_string();
    assert!(text.contains("data.max_length"), "{text}");
}

#[test]
fn a_tokeniser_that_ends_no_text_gets_ends() {
    let Some(gpt2) = gpt2() else { return };
    let source =
        rows([SourceTarget { source: "Hello world again".into(), target: Some("Hello".into()), line: 1 }]);
    let data = Seq2SeqDataset::new(&gpt2, &source, Seq2SeqLengths { source: 3, target: 2 }).unwrap();
    let example = data.get(0).unwrap();
    assert_eq!((example.source.len(), example.source[2], example.target), (3, 50256, &[15496, 50256][..]));
    assert_eq!((data.truncated_sources, data.truncated_targets), (1, 0));
}
