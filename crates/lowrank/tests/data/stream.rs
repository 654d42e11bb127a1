use lowrank::data::Tokenizer;
use lowrank::data::stream::{Detokenizer, StopWords};

/// What is shown of each token, and at the end.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = Detokenizer::default();
    let decode = |ids: &[u32]| tokenizer.decode(ids, true);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id, decode).unwrap()).collect();
    pieces.push(stream.finish(decode).unwrap());
    pieces
}

fn tokenizers() -> Vec<Tokenizer> {
    let shared =
        ["data/tokenizers/gpt2", "data/tokenizers/t5", "data/weights/stories260K"].map(crate::shared);
    let fixture = crate::fixtures("chat/chatml");
    shared.into_iter().chain([fixture]).flatten().map(|f| Tokenizer::from_folder(f).unwrap()).collect()
}

#[test]
fn streamed_text_is_the_whole_text_and_never_half_a_character() {
    let texts =
        ["Once upon a time, there was", "日本語 😀 é\u{301} 👩‍👩‍👧 ok…", " two  blanks \n\n", "", "a\u{fffd}b"];
    for tokenizer in tokenizers() {
        for text in texts {
            let ids = tokenizer.encode_with_offsets(text, true).unwrap().ids;
            let pieces = pieces(&tokenizer, &ids);
            let whole = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(pieces.concat(), whole, "{text}");
            if !whole.contains('\u{fffd}') {
                assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
            }
        }
    }
}

#[test]
fn words_are_shown_as_soon_as_they_are_whole() {
    let Some(folder) = crate::shared("data/tokenizers/gpt2") else { return };
    let tokenizer = Tokenizer::from_folder(folder).unwrap();
    let ids = tokenizer.encode_with_offsets("Hello world 😀!", false).unwrap().ids;
    let pieces = pieces(&tokenizer, &ids);
    assert_eq!(pieces[..2], ["Hello", " world"]);
    assert_eq!(pieces[2..].iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(), [" 😀", "!"]);
}

#[test]
fn bytes_that_are_no_character_do_not_stop_the_stream() {
    // GPT-2's tokens are bytes: 0x80 alone is none of UTF-8.
    let Some(folder) = crate::shared("data/tokenizers/gpt2") else { return };
    let tokenizer = Tokenizer::from_folder(folder).unwrap();
    let byte = tokenizer.id("Ģ").unwrap();
    let mut ids = vec![byte; 40];
    ids.extend(tokenizer.encode_with_offsets(" end", false).unwrap().ids);
    let pieces = pieces(&tokenizer, &ids);
    assert!(pieces[..20].iter().any(|piece| !piece.is_empty()), "{pieces:?}");
    assert!(pieces.concat().ends_with(" end"), "{pieces:?}");
    // One that is never completed comes at the end.
    let half = tokenizer.encode_with_offsets("a😀", false).unwrap().ids;
    let shown = self::pieces(&tokenizer, &half[..2]);
    assert_eq!((shown[0].as_str(), shown[1].as_str(), shown[2].as_str()), ("a", "", "\u{fffd}"));
}

/// The shown text, however it is cut into pieces.
fn shown(words: &[&str], text: &str, size: usize) -> (String, bool) {
    let mut stop = StopWords::new(words.iter().copied());
    let letters: Vec<char> = text.chars().collect();
    let mut out: String = letters.chunks(size).map(|piece| stop.push(&String::from_iter(piece))).collect();
    let stopped = stop.stopped();
    out += &stop.finish();
    (out, stopped)
}

#[test]
fn the_first_stop_word_ends_the_text_however_it_comes() {
    let cases: [(&[&str], &str, &str, bool); 9] = [
        (&["</s>"], "one </s> two", "one ", true),
        (&["stop", "top"], "a stop", "a ", true),
        (&["aab"], "aaaab", "aa", true),
        (&["\n\nUser:", "\n\n"], "x\n\nUser: y", "x", true),
        (&["日本"], "a日日本b", "a日", true),
        (&["never"], "neve", "neve", false),
        (&[""], "text", "text", false),
        (&[], "text", "text", false),
        (&["x"], "", "", false),
    ];
    for (words, text, expected, stops) in cases {
        for size in 1..8 {
            assert_eq!(shown(words, text, size), (expected.to_owned(), stops), "{words:?} {text:?} {size}");
        }
    }
}

#[test]
fn only_what_may_begin_a_stop_word_is_held_back() {
    let mut stop = StopWords::new(["<end>"]);
    assert_eq!(stop.push("a <e"), "a ");
    assert_eq!(stop.push("lse <"), "<else ");
    assert_eq!(stop.push("end>more"), "");
    assert_eq!((stop.stopped(), stop.push("more"), stop.finish()), (true, String::new(), String::new()));
}
