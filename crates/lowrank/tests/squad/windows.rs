use lowrank::data::Tokenizer;
use lowrank::data::squad::{Answer, Purpose, Question, Questions, Version, WindowOptions, Windows, read};
use serde_json::Value;

use crate::{fixtures, golden, options, shared};

fn fnv(words: impl IntoIterator<Item = u32>) -> String {
    let mix = |hash: u64, word: u32| (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", words.into_iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

#[test]
fn windows_of_real_questions_are_those_of_transformers() {
    let Some(golden) = golden("windows") else { return };
    let mut compared = 0;
    for case in golden.as_array().unwrap() {
        let Some(folder) = shared(case["tokenizer"].as_str().unwrap()) else { return };
        let tokenizer = Tokenizer::from_folder(folder).unwrap();
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let (max_length, stride) = (number("max_length"), number("stride"));
        for file in case["files"].as_array().unwrap() {
            let Some(path) = shared(file["file"].as_str().unwrap()) else { return };
            let all = read(&path, &options(Version::V2, Purpose::Train)).unwrap();
            let expected: Vec<(usize, &Value)> = (file["questions"].as_array().unwrap().iter())
                .map(|question| (question[0].as_u64().unwrap() as usize, &question[1]))
                .collect();
            let rows = expected.iter().map(|&(row, _)| all.rows[row].clone()).collect();
            let questions = Questions { rows, ..all };
            let windows = Windows::new(
                &tokenizer,
                &questions,
                &WindowOptions { max_length, stride, ..WindowOptions::default() },
            )
            .unwrap();
            assert!(windows.skipped.is_empty() && windows.longest() == max_length);
            let mut made = windows.iter();
            for (question, (row, expected)) in expected.into_iter().enumerate() {
                for expected in expected.as_array().unwrap() {
                    let window = made.next().unwrap();
                    let zeros = vec![0; window.ids.len()];
                    let types = if window.type_ids.is_empty() { &zeros } else { window.type_ids };
                    let (start, end) = window.answer.unwrap();
                    let actual = serde_json::json!([
                        window.ids.len(),
                        fnv(window.ids.iter().copied()),
                        fnv(types.iter().map(|&id| u32::from(id))),
                        window.context.start,
                        window.context.end,
                        fnv(window.spans.iter().flatten().copied()),
                        start,
                        end
                    ]);
                    let name = &case["tokenizer"];
                    assert_eq!(
                        actual, *expected,
                        "{name} {max_length} {stride}: row {row} of {}",
                        file["file"]
                    );
                    assert_eq!((window.question, window.cls), (question, 0));
                    compared += 1;
                }
            }
            assert!(made.next().is_none());
        }
    }
    assert!(compared > 500, "{compared}");
}

fn one_question(text: &str, context: &str, answer: Option<(&str, usize)>) -> Questions {
    let answers = answer.map(|(text, start)| Answer { text: text.to_owned(), start: Some(start) });
    let question = Question {
        id: "q".to_owned(),
        text: text.to_owned(),
        context: 0,
        answers: Some(answers.into_iter().collect()),
    };
    Questions { contexts: vec![context.to_owned()], rows: vec![question], ..Questions::default() }
}

/// Windows of 12 tokens, 3 of them special, that share 2.
fn small(questions: &Questions) -> lowrank::Result<Windows> {
    let tokenizer = Tokenizer::from_folder(fixtures("tokenizers/wordpiece-uncased").unwrap()).unwrap();
    let options = WindowOptions { max_length: 12, stride: 2, ..WindowOptions::default() };
    Windows::new(&tokenizer, questions, &options)
}

const CONTEXT: &str = "é the a movie film off well pace work hello world";

#[test]
fn an_answer_is_found_in_each_window_that_holds_all_of_it() {
    let windows = small(&one_question(" the film", CONTEXT, Some(("well pace", 23)))).unwrap();
    // [CLS] the film [SEP], seven tokens of the context, [SEP]; five further on the next ones.
    let of_answer: Vec<_> = windows.iter().map(|window| (window.ids.len(), window.answer.unwrap())).collect();
    assert_eq!(of_answer, [(12, (0, 0)), (11, (5, 6))]);
    let windows = small(&one_question("the film", CONTEXT, Some(("off", 19)))).unwrap();
    let of_answer: Vec<_> = windows.iter().map(|window| window.answer.unwrap()).collect();
    assert_eq!(of_answer, [(9, 9), (4, 4)]);
    let windows = small(&one_question("the film", CONTEXT, None)).unwrap();
    assert!(windows.iter().all(|window| window.answer == Some((0, 0))));
}

#[test]
fn a_question_that_leaves_no_room_is_left_out_by_its_id() {
    let long = one_question("a a a a a a a", CONTEXT, None);
    let windows = small(&long).unwrap();
    assert!(windows.is_empty());
    assert_eq!(windows.skipped[0].id, "q");
    let reason = windows.skipped[0].to_string();
    assert!(reason.starts_with("question \"q\": ") && reason.contains("at most 6"), "{reason}");
    assert_eq!(small(&one_question("a a a a a a", CONTEXT, None)).unwrap().len(), 9);
    // A context that fits whole needs no room to move on.
    assert_eq!(small(&one_question("a a a a a a a", "the film", None)).unwrap().len(), 1);
    assert_eq!(small(&one_question("a", "", Some(("x", 0)))).unwrap().get(0).unwrap().answer, Some((0, 0)));
}

#[test]
fn windows_that_cannot_move_on_are_refused() {
    let tokenizer = Tokenizer::from_folder(fixtures("tokenizers/wordpiece-uncased").unwrap()).unwrap();
    for (max_length, stride) in [(12, 9), (12, 100), (2, 0), (0, 0)] {
        let options = WindowOptions { max_length, stride, ..WindowOptions::default() };
        let error = Windows::new(&tokenizer, &one_question("a", CONTEXT, None), &options).unwrap_err();
        assert!(error.to_string().starts_with("data.stride: "), "{error}");
    }
}

#[test]
fn spans_are_kept_only_if_asked_for() {
    let tokenizer = Tokenizer::from_folder(fixtures("tokenizers/wordpiece-uncased").unwrap()).unwrap();
    let questions = one_question("a", CONTEXT, Some(("off", 19)));
    let options = WindowOptions { spans: false, ..WindowOptions::default() };
    let without = Windows::new(&tokenizer, &questions, &options).unwrap();
    let with = Windows::new(&tokenizer, &questions, &WindowOptions::default()).unwrap();
    let (without, with) = (without.get(0).unwrap(), with.get(0).unwrap());
    assert_eq!((without.ids, without.answer), (with.ids, with.answer));
    assert!(without.spans.is_empty() && with.spans.len() == with.context.len());
    assert_eq!(with.spans[..2], [[0, 1], [2, 5]], "in code points");
}
