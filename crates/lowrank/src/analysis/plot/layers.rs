//! Names of tensors as places in a grid of modules and layers.

use std::collections::BTreeMap;

use crate::analysis::file::expert_of;

/// What stands for the layer of a module that is in none.
const NO_LAYER: &str = "-";

/// The values of a module, by the layers' numbers.
type Row = BTreeMap<Option<u64>, Option<f64>>;

/// Values by module and layer.
#[derive(Debug, PartialEq)]
pub struct Grid {
    /// The modules' names, without the layer's number and without what all have in common before it.
    pub modules: Vec<String>,
    /// The layers' numbers.
    pub layers: Vec<String>,
    /// A row for each module.
    pub cells: Vec<Vec<Option<f64>>>,
}

/// Puts values into a grid by their names: the first part that is a number is the layer's, all others are the module's.
pub fn grid<'a>(values: impl Iterator<Item = (&'a str, Option<f64>)>) -> Grid {
    // Experts are in the order of their numbers.
    let mut by_expert: BTreeMap<(String, Option<usize>), Row> = BTreeMap::new();
    for (name, value) in values {
        let (name, expert) = expert_of(name);
        let (module, layer) = split(name);
        by_expert.entry((module, expert)).or_default().insert(layer, value);
    }
    let name = |(module, expert): (String, Option<usize>)| match expert {
        Some(number) => format!("{module}[{number}]"),
        None => module,
    };
    let rows: Vec<(String, Row)> = by_expert.into_iter().map(|(place, row)| (name(place), row)).collect();
    let mut layers: Vec<Option<u64>> = rows.iter().flat_map(|(_, row)| row.keys().copied()).collect();
    layers.sort_unstable();
    layers.dedup();
    let cells =
        rows.iter().map(|(_, row)| layers.iter().map(|layer| row.get(layer).copied().flatten()).collect());
    let common = common_prefix(&rows.iter().map(|(module, _)| module.as_str()).collect::<Vec<_>>());
    Grid {
        cells: cells.collect(),
        modules: rows.iter().map(|(module, _)| module[common..].to_owned()).collect(),
        layers: layers.iter().map(|layer| layer.map_or(NO_LAYER.to_owned(), |n| n.to_string())).collect(),
    }
}

fn split(name: &str) -> (String, Option<u64>) {
    let mut layer = None;
    let mut module = Vec::new();
    for part in name.strip_suffix(".weight").unwrap_or(name).split('.') {
        match part.parse() {
            Ok(number) if layer.is_none() => layer = Some(number),
            _ => module.push(part),
        }
    }
    (module.join("."), layer)
}

/// The length of the parts that all names begin with; none of a single name.
fn common_prefix(names: &[&str]) -> usize {
    let [first, rest @ ..] = names else { return 0 };
    let ends = first.match_indices('.').map(|(dot, _)| dot + 1);
    let shared = |end: &usize| !rest.is_empty() && rest.iter().all(|name| name.starts_with(&first[..*end]));
    ends.take_while(shared).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_in_the_order_of_their_numbers_and_modules_lose_what_they_share() {
        let values = [
            ("bert.layer.10.query.weight", Some(3.0)),
            ("bert.layer.2.query.weight", Some(2.0)),
            ("bert.layer.2.key.weight", None),
            ("bert.pooler.weight", Some(7.0)),
        ];
        let grid = grid(values.into_iter());
        assert_eq!(grid.modules, ["layer.key", "layer.query", "pooler"]);
        assert_eq!(grid.layers, ["-", "2", "10"]);
        let none = None;
        assert_eq!(grid.cells, [[none, none, none], [none, Some(2.0), Some(3.0)], [Some(7.0), none, none]]);
    }

    #[test]
    fn experts_are_in_the_order_of_their_numbers() {
        let names =
            ["layers.1.experts.up[2]", "layers.0.experts.up[10]", "layers.0.experts.up[2]", "layers.0.q"];
        let grid = grid(names.into_iter().map(|name| (name, Some(1.0))));
        assert_eq!(grid.modules, ["experts.up[2]", "experts.up[10]", "q"]);
        assert_eq!(grid.cells[..2], [[Some(1.0), Some(1.0)], [Some(1.0), None]]);
    }

    #[test]
    fn a_single_module_keeps_its_name() {
        assert_eq!(grid([("a.b", None)].into_iter()).modules, ["a.b"]);
    }
}
