//! Tools on adapter folders: combined, resized, extracted, looked at.
#![allow(clippy::unwrap_used, missing_docs)]

mod combine;
#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod extract;
mod folders;
mod golden;
mod mixtures;
mod resize;
mod variants;

use std::collections::BTreeMap;
use std::path::Path;

use lowrank::adapter::tools::AdapterFolder;

/// `s·B·A` of each layer, formed, in the order of its elements.
fn products(folder: &Path) -> BTreeMap<String, Vec<f64>> {
    let folder = AdapterFolder::open(folder.to_str().unwrap()).unwrap();
    let formed = |layer| {
        let product = folder.product(layer).unwrap();
        let (b, a) = (product.b().values().unwrap(), product.a().values().unwrap());
        let (r, columns) = (product.r(), product.a().columns());
        let element = |row: usize, column: usize| -> f64 {
            product.scaling() * (0..r).map(|k| b[row * r + k] * a[k * columns + column]).sum::<f64>()
        };
        (0..product.b().rows())
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(row, column)| element(row, column))
            .collect()
    };
    folder.layers().iter().map(|layer| (layer.name().to_owned(), formed(layer))).collect()
}

/// `Σ wᵢ·xᵢ`, of layers that some may lack.
fn sum(parts: &[(f64, &BTreeMap<String, Vec<f64>>)]) -> BTreeMap<String, Vec<f64>> {
    let mut sum: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (weight, layers) in parts {
        for (name, values) in *layers {
            let sum = sum.entry(name.clone()).or_insert_with(|| vec![0.0; values.len()]);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    sum
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// How far values are from others, as a part of the norm of those.
fn off(actual: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(actual.len(), wanted.len());
    let difference: Vec<f64> = actual.iter().zip(wanted).map(|(x, y)| x - y).collect();
    norm(&difference) / norm(wanted)
}

fn assert_same(actual: &BTreeMap<String, Vec<f64>>, wanted: &BTreeMap<String, Vec<f64>>, what: &str) {
    assert_eq!(actual.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{what}");
    for (name, actual) in actual {
        let off = off(actual, &wanted[name]);
        assert!(off < 1e-6, "{what}: {name} is off by {off:e}");
    }
}
