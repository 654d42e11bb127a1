//! Colors that are told apart, by people who see few of them too.

use super::drawing::Color;

/// Okabe and Ito's colors, without those that are faint on white.
const LINES: [Color; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [230, 159, 0],
    [90, 90, 90],
    [120, 60, 20],
];

/// Matplotlib's viridis at nine places.
const VIRIDIS: [Color; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The color of one of several lines.
pub fn of_line(index: usize, lines: usize) -> Color {
    match LINES.get(index) {
        Some(color) if lines <= LINES.len() => *color,
        // The last color would be hard to see on white.
        _ => of_part(0.9 * index as f64 / lines.max(2).saturating_sub(1) as f64),
    }
}

/// The color of a value from 0 to 1.
pub fn of_part(part: f64) -> Color {
    let place = part.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (place as usize).min(VIRIDIS.len() - 2);
    let (low, high, part) = (VIRIDIS[below], VIRIDIS[below + 1], place - below as f64);
    std::array::from_fn(|i| (f64::from(low[i]) * (1.0 - part) + f64::from(high[i]) * part).round() as u8)
}

/// Whether dark text is easier to read on a color than white.
pub fn is_light([red, green, blue]: Color) -> bool {
    299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) > 140_000
}
