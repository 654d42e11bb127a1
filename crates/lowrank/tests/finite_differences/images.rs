//! The embeddings of images.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::Embedding;
use lowrank::tape::{AdapterId, Layout, Leaf, Parameter, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, normal};

const WIDTH: usize = 5;
const IMAGES: usize = 3;

struct Embeddings {
    x: Embedding,
    class_token: Parameter,
    positions: Parameter,
}

module!(Embeddings { "x" => x, "cls_token" => class_token, "position_embeddings" => positions });

impl Embeddings {
    fn new(grid: (usize, usize), places: usize) -> Self {
        let mut embeddings = Self {
            x: Embedding::new(IMAGES * grid.0 * grid.1, WIDTH),
            class_token: Parameter::new([1, 1, WIDTH]),
            positions: Parameter::new([1, 1 + places, WIDTH]),
        };
        fill(&mut embeddings, &mut Philox::new(51, 0));
        embeddings
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>, grid: (usize, usize)) -> Result<Var> {
        let ids: Vec<u32> = (0..self.x.entries() as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        let x = ops::patch_embeddings(tape, &x, &self.class_token, &self.positions, grid)?;
        ops::dropout(tape, &x, 0.2)
    }
}

fn layout(grid: (usize, usize), adapters: [Option<AdapterId>; IMAGES]) -> Arc<Layout> {
    let offsets = (0..=IMAGES).map(|image| image * grid.0 * grid.1).collect();
    Layout::new(offsets, vec![4, 0, 7], adapters.to_vec()).unwrap()
}

fn check_images(what: &str, embeddings: Embeddings, grid: (usize, usize), adapters: [Option<AdapterId>; 3]) {
    let layout = layout(grid, adapters);
    check(what, Pass(embeddings, move |e: &Embeddings, tape: &mut Tape| e.forward(tape, &layout, grid)));
}

#[test]
fn images_of_the_size_of_the_positions() {
    check_images("a square", Embeddings::new((2, 2), 4), (2, 2), [None; IMAGES]);
    check_images("no square", Embeddings::new((2, 3), 6), (2, 3), [None; IMAGES]);
}

#[test]
fn images_of_another_size() {
    check_images("interpolated", Embeddings::new((2, 3), 9), (2, 3), [None; IMAGES]);
    check_images("as many places, otherwise", Embeddings::new((1, 4), 4), (1, 4), [None; IMAGES]);
}

#[test]
fn parameters_that_an_adapter_brought_along() {
    let (mut embeddings, id) = (Embeddings::new((1, 3), 4), AdapterId(0));
    let random = &mut Philox::new(52, 0);
    embeddings.class_token.set_replacement(id, Leaf::trained(normal(&[1, 1, WIDTH], 0.7, random))).unwrap();
    embeddings.positions.set_replacement(id, Leaf::trained(normal(&[1, 5, WIDTH], 0.7, random))).unwrap();
    check_images("by adapter", embeddings, (1, 3), [Some(id), None, Some(id)]);
}

#[test]
fn frozen_patches_under_trained_positions() {
    let mut embeddings = Embeddings::new((2, 1), 4);
    freeze(&mut embeddings.x.weight);
    freeze(&mut embeddings.class_token);
    check_images("positions", embeddings, (2, 1), [None; IMAGES]);
}

#[test]
fn positions_that_fit_no_grid_are_refused_with_their_number() {
    let embeddings = Embeddings::new((2, 2), 6);
    let error =
        embeddings.forward(&mut crate::check::tape(), &layout((2, 2), [None; 3]), (2, 2)).unwrap_err();
    assert!(error.to_string().contains("position_embeddings has 6 places"), "{error}");
    let embeddings = Embeddings::new((2, 2), 4);
    let error =
        embeddings.forward(&mut crate::check::tape(), &layout((2, 2), [None; 3]), (2, 3)).unwrap_err();
    assert!(error.to_string().contains("6 patches of its grid"), "{error}");
}
