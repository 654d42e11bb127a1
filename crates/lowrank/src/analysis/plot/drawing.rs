//! What a plot consists of, whatever it is written as.

/// Red, green and blue.
pub type Color = [u8; 3];

/// Where a text stands to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A mark on a drawing, in pixels from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A filled rectangle.
    Rectangle {
        /// The upper left corner.
        at: [f64; 2],
        /// The width and the height.
        size: [f64; 2],
        /// Its color.
        color: Color,
    },
    /// A line from point to point.
    Line {
        /// The points.
        points: Vec<[f64; 2]>,
        /// Its thickness.
        width: f64,
        /// Its color.
        color: Color,
    },
    /// A line of text.
    Text {
        /// Its place on the base line.
        at: [f64; 2],
        /// Where it stands to its place.
        anchor: Anchor,
        /// Its size: the distance between two lines of it, roughly.
        size: f64,
        /// The text.
        text: String,
        /// Its color.
        color: Color,
    },
}

/// A drawing on white ground.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// The marks, the lowest first.
    pub marks: Vec<Mark>,
}

/// The color of text and axes.
pub const INK: Color = [40, 40, 40];
/// The color of what is less important.
pub const FAINT: Color = [222, 222, 222];

impl Drawing {
    /// An empty drawing.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, marks: Vec::new() }
    }

    /// Adds a line.
    pub fn line(&mut self, points: Vec<[f64; 2]>, width: f64, color: Color) {
        self.marks.push(Mark::Line { points, width, color });
    }

    /// Adds a filled rectangle.
    pub fn rectangle(&mut self, at: [f64; 2], size: [f64; 2], color: Color) {
        self.marks.push(Mark::Rectangle { at, size, color });
    }

    /// Adds a text.
    pub fn text(&mut self, at: [f64; 2], anchor: Anchor, size: f64, text: impl Into<String>, color: Color) {
        self.marks.push(Mark::Text { at, anchor, size, text: text.into(), color });
    }
}
