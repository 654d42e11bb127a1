//! Files that were once read wrongly.

use std::fs;

use crate::readers::{fixtures, reader, run};

/// The library that reads tokenisers panics at text that is not UTF-8 within some of their parts.
#[test]
fn a_tokenizer_whose_decoder_is_not_utf_8_is_refused() {
    let whole = fs::read(fixtures().join("chat/chatml/tokenizer.json")).unwrap();
    let decoder = whole.windows(9).position(|bytes| bytes == b"\"decoder\"").unwrap();
    let place = decoder + whole[decoder..].windows(4).position(|bytes| bytes == b"add_").unwrap();
    let torn = [&whole[..place], b"\xff", &whole[place + 1..]].concat();
    assert!(run(reader("tokenizer"), &whole).is_ok());
    let error = run(reader("tokenizer"), &torn).unwrap_err();
    assert!(error.contains("tokenizer.json: not a tokeniser: "), "{error}");
}

/// The library that reads JPEG ends some of its sentences with a line break, which [`run`] does not let pass.
#[test]
fn a_torn_jpeg_is_told_in_one_line() {
    let whole = fs::read(fixtures().join("images/grey.jpg")).unwrap();
    // With the marker of an end, so that the rest is read.
    let torn = (2..whole.len()).map(|length| [&whole[..length], b"\xff\xd9"].concat());
    let told: Vec<String> = torn.filter_map(|torn| run(reader("picture"), &torn).err()).collect();
    assert!(told.iter().any(|text| text.contains("I/O errors")), "{told:?}");
}

/// The library that reads templates counts columns in 16 bits.
#[test]
fn a_mistake_far_to_the_right_of_a_chat_template_is_told() {
    for length in [10, 65_000, 65_520, 65_535, 65_536, 70_000] {
        let template = format!("{{{{ '{}' \u{7f} }}}}", "x".repeat(length));
        let error = run(reader("chat_template"), template.as_bytes()).unwrap_err();
        assert!(
            error.contains("chat_template.jinja") && error.contains("the chat template fails"),
            "{error}"
        );
    }
}
