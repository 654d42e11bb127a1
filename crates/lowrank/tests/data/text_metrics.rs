use std::fs;

use lowrank::data::metrics::{Bleu, Rouge};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    predictions: Vec<String>,
    references: Vec<Vec<String>>,
    rouge1: f64,
    rouge2: f64,
    #[serde(rename = "rougeL")]
    rouge_l: f64,
    bleu: f64,
}

#[test]
fn rouge_is_that_of_rouge_score_and_bleu_that_of_sacrebleu() {
    let Some(path) = crate::fixtures("text_metrics.json") else { return };
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let (mut rouge, mut bleu) = (Rouge::default(), Bleu::default());
        for (prediction, references) in case.predictions.iter().zip(&case.references) {
            rouge.add(prediction, references);
            bleu.add(prediction, references);
        }
        let expected = [("rouge1", case.rouge1), ("rouge2", case.rouge2), ("rougeL", case.rouge_l)];
        for ((name, ours), (_, theirs)) in rouge.scores().into_iter().zip(expected) {
            assert!((ours - theirs).abs() < 1e-12, "{}: {name} {ours} is not {theirs}", case.name);
        }
        assert!(
            (bleu.score() - case.bleu).abs() < 1e-9,
            "{}: {} is not {}",
            case.name,
            bleu.score(),
            case.bleu
        );
    }
}

#[test]
fn nothing_added_and_no_references_give_zero() {
    assert_eq!(Rouge::default().scores().map(|(_, value)| value), [0.0; 3]);
    assert_eq!(Bleu::default().score(), 0.0);
    let (mut rouge, mut bleu) = (Rouge::default(), Bleu::default());
    rouge.add::<&str>("five words of a text", &[]);
    bleu.add::<&str>("five words of a text", &[]);
    assert_eq!(rouge.scores().map(|(_, value)| value), [0.0; 3]);
    assert_eq!(bleu.score(), 0.0);
}
