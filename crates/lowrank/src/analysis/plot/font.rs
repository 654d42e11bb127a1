//! Letters as strokes, so that a PNG can have text without a font file.

/// The width of a letter and of the gap after it, in units of the grid.
const ADVANCE: f64 = 6.0;
/// Where the base line is on the grid.
const BASE: f64 = 7.0;
/// Units of the grid in the size of a text.
const UNITS: f64 = 10.0;

/// The strokes of the printable ASCII characters, from the blank on. A stroke is pairs of digits, `x` from 0 to 4 and `y`
/// from 0, the top of a capital, over 2, the top of a small letter, to 7, the base line, and 9.
const GLYPHS: [&str; 95] = [
    "",                                      // blank
    "2024 2727",                             // !
    "1012 3032",                             // "
    "1117 3137 0343 0545",                   // #
    "413010011213334445361605 2028",         // $
    "0740 0010110100 3646473736",            // %
    "47110110203122130405061727354443",      // &
    "2022",                                  // '
    "302122252637",                          // (
    "102122252617",                          // )
    "2125 0244 0442",                        // *
    "2226 0444",                             // +
    "272819",                                // ,
    "0444",                                  // -
    "2727",                                  // .
    "0740",                                  // /
    "103041463717060110 0641",               // 0
    "112027 1737",                           // 1
    "01103041420747",                        // 2
    "01103041423313334446371706",            // 3
    "37300545",                              // 4
    "40000313334445461706",                  // 5
    "413010010617374644331304",              // 6
    "004017",                                // 7
    "103041423313020110 133344463717060413", // 8
    "061737464130100102133342",              // 9
    "2323 2727",                             // :
    "2323 272819",                           // ;
    "420547",                                // <
    "0343 0545",                             // =
    "024507",                                // >
    "01103041422425 2727",                   // ?
    "47170601103041453524 333524",           // @
    "072047 1535",                           // A
    "0030414233030700 3344463707",           // B
    "4130100106173746",                      // C
    "00204245270700",                        // D
    "40000747 0333",                         // E
    "400007 0333",                           // F
    "41301001061737464424",                  // G
    "0007 4047 0343",                        // H
    "1030 2027 1737",                        // I
    "2040 30361705",                         // J
    "0007 4004 1347",                        // K
    "000747",                                // L
    "0700244047",                            // M
    "07004740",                              // N
    "103041463717060110",                    // O
    "07003041423303",                        // P
    "103041463717060110 2547",               // Q
    "07003041423303 2347",                   // R
    "413010010213334446371706",              // S
    "0040 2027",                             // T
    "000617374640",                          // U
    "002740",                                // V
    "0017243740",                            // W
    "0047 4007",                             // X
    "002340 2327",                           // Y
    "00400747",                              // Z
    "30202737",                              // [
    "0047",                                  // backslash
    "10202717",                              // ]
    "032043",                                // ^
    "0848",                                  // _
    "1021",                                  // `
    "12324347 44140506173746",               // a
    "0007 0312324346371706",                 // b
    "4332120306173746",                      // c
    "4047 4332120306173746",                 // d
    "04444332120306173746",                  // e
    "41302127 0333",                         // f
    "4248391908 4332120306173746",           // g
    "0007 0312324347",                       // h
    "2020 122227 1737",                      // i
    "3030 2232381908",                       // j
    "0007 4205 1447",                        // k
    "1020263747",                            // l
    "0702 03122327 23324347",                // m
    "0702 0312324347",                       // n
    "123243463717060312",                    // o
    "0902 0312324346371706",                 // p
    "4942 4332120306173746",                 // q
    "0702 03123243",                         // r
    "4332120314344546371706",                // s
    "20263747 0232",                         // t
    "0206173746 4247",                       // u
    "022742",                                // v
    "0217243742",                            // w
    "0247 4207",                             // x
    "0227 421909",                           // y
    "02420747",                              // z
    "302123142537",                          // {
    "2029",                                  // |
    "102123342517",                          // }
    "0413243342",                            // ~
];

/// The width of a text of this size.
pub fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * ADVANCE * size / UNITS
}

/// The strokes of a text that begins at the origin of its base line.
pub fn strokes(text: &str, size: f64) -> Vec<Vec<[f64; 2]>> {
    let unit = size / UNITS;
    let mut strokes = Vec::new();
    for (place, letter) in text.chars().enumerate() {
        for stroke in glyph(letter).split(' ').filter(|stroke| !stroke.is_empty()) {
            let (pairs, _) = stroke.as_bytes().as_chunks::<2>();
            let point = |&[x, y]: &[u8; 2]| {
                let [x, y] = [x, y].map(|digit| f64::from(digit.saturating_sub(b'0')));
                [(place as f64 * ADVANCE + 0.5 + x) * unit, (y - BASE) * unit]
            };
            strokes.push(pairs.iter().map(point).collect());
        }
    }
    strokes
}

/// The strokes of a letter; a box for one that there are none for.
fn glyph(letter: char) -> &'static str {
    let index = (letter as usize).checked_sub(' ' as usize);
    index.and_then(|index| GLYPHS.get(index)).copied().unwrap_or("0040470700")
}
