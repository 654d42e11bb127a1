//! Plots as files.

use std::path::Path;

use lowrank::analysis::plot::{Format, Kind, Mark, Measure, draw, save, to_png, to_svg};
use lowrank::analysis::{RankOptions, RankReport};

use crate::golden::{fixture, look_at, options};

fn texts(report: &RankReport, kind: Kind) -> Vec<String> {
    let text = |mark: &Mark| match mark {
        Mark::Text { text, .. } => Some(text.clone()),
        _ => None,
    };
    draw(report, kind).unwrap().marks.iter().filter_map(text).collect()
}

fn has(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|text| text == wanted)
}

#[test]
fn every_kind_is_written_in_both_formats_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let report = look_at(&options(&fixture("models/bert")));
    for kind in [Kind::Spectrum, Kind::Energy, Kind::HeatMap(Measure::StableRank)] {
        let drawing = draw(&report, kind).unwrap();
        for (name, begins) in [("plot.svg", &b"<svg "[..]), ("plot.PNG", b"\x89PNG")] {
            let path = folder.path().join(name);
            save(&drawing, &path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.starts_with(begins), "{name}");
            save(&draw(&report, kind).unwrap(), &path).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{name}");
        }
    }
    assert!(Format::of(Path::new("plot.pdf")).unwrap_err().is_usage());
}

#[test]
fn a_png_has_two_pixels_for_one_and_is_not_blank() {
    let report = look_at(&options(&fixture("rank/write_up.safetensors")));
    let drawing = draw(&report, Kind::Energy).unwrap();
    let bytes = to_png(&drawing).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width as usize, info.height as usize), (2 * drawing.width, 2 * drawing.height));
    let dark = pixels.chunks(3).filter(|pixel| pixel[0] < 200).count();
    assert!(dark > 1000 && dark < pixels.len() / 6, "{dark}");
}

#[test]
fn lines_are_named_and_a_matrix_of_zeros_has_none_in_the_spectrum() {
    let report = look_at(&options(&fixture("rank/write_up.safetensors")));
    let names = texts(&report, Kind::Spectrum);
    assert!(["rank0", "rank1", "rank2", "rank3"].iter().all(|name| has(&names, name)), "{names:?}");
    let svg = to_svg(&draw(&report, Kind::Spectrum).unwrap());
    assert!(svg.contains("write_up.safetensors") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn a_heat_map_has_modules_and_layers() {
    let report = look_at(&options(&fixture("cases/bert_query_value/adapter")));
    let texts = texts(&report, Kind::HeatMap(Measure::Rank));
    for wanted in ["bert.encoder.layer.attention.self.query", "0", "1", "8", "module", "layer"] {
        assert!(has(&texts, wanted), "{wanted} in {texts:?}");
    }
}

#[test]
fn each_expert_of_a_model_has_its_row_and_its_line() {
    let report = look_at(&options(&fixture("models/qwen3-moe-joined")));
    let stacks = [("down_proj", [24, 16]), ("gate_up_proj", [32, 24])];
    for (stack, shape) in stacks {
        let of_stack = |name: &str| name.starts_with(&format!("model.layers.2.mlp.experts.{stack}["));
        let experts: Vec<_> = report.tensors.iter().filter(|tensor| of_stack(&tensor.name)).collect();
        assert!(experts.len() == 5 && experts.iter().all(|expert| expert.shape == shape), "{stack}");
        assert_ne!(experts[0].singular_values, experts[1].singular_values);
    }
    let texts = texts(&report, Kind::HeatMap(Measure::StableRank));
    for wanted in ["model.layers.mlp.experts.down_proj[0]", "model.layers.mlp.experts.gate_up_proj[4]"] {
        let end = wanted.strip_prefix("model.").unwrap();
        assert!(texts.iter().any(|text| text.ends_with(end)), "{end} in {texts:?}");
    }
}

#[test]
fn an_overlap_of_one_pair_is_drawn_as_its_grid_and_needs_another_adapter() {
    let (one, other) = (fixture("cases/bert_query_value/adapter"), fixture("cases/bert_switch_a/adapter"));
    let name = ["bert.encoder.layer.0.attention.self.query".to_owned()];
    let with = look_at(&RankOptions { tensors: &name, with: Some(&other), ..options(&one) });
    let drawing = draw(&with, Kind::HeatMap(Measure::Overlap)).unwrap();
    let cells = drawing.marks.iter().filter(|mark| matches!(mark, Mark::Rectangle { .. })).count();
    assert_eq!(cells, 8 * 4 + 30, "the cells and the scale");
    let without = look_at(&options(&one));
    for measure in [Measure::Overlap, Measure::Amplification] {
        let error = draw(&without, Kind::HeatMap(measure)).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("there is nothing to show of it"), "{error}");
    }
}

#[test]
fn a_file_without_matrices_has_no_plot() {
    let file = fixture("rank/matrices.safetensors");
    let report = RankReport { tensors: Vec::new(), ..look_at(&options(&file)) };
    assert!(draw(&report, Kind::Spectrum).unwrap_err().to_string().contains("it holds no matrix to plot"));
}
