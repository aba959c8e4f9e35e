//! The picture that the demo host shows and the demo client recognises:
//! colour bars that never change, so that every pixel can be checked, and
//! below them a square that never rests, so that a still cannot pass for a
//! live session.
//!
//! Edges lie on multiples of 64 pixels where they can: that is the tile of
//! RemoteFX, and a tile of one colour survives it almost unharmed.

/// Width of the desktop in pixels.
pub const WIDTH: u16 = 1024;
/// Height of the desktop in pixels.
pub const HEIGHT: u16 = 640;

/// The bars, left to right.
pub const BARS: [Colour; 8] = [
    Colour(255, 255, 255),
    Colour(255, 255, 0),
    Colour(0, 255, 255),
    Colour(0, 255, 0),
    Colour(255, 0, 255),
    Colour(255, 0, 0),
    Colour(0, 0, 255),
    Colour(0x20, 0x40, 0x60),
];
const BAR_WIDTH: u16 = 128;
/// The bars end and the stage of the square begins at this row.
pub const STAGE_TOP: u16 = 384;
const STAGE: Colour = Colour(0x10, 0x18, 0x20);

/// Side of the square in pixels.
pub const SQUARE_SIDE: u16 = 64;
/// The square changes colour with every key and button; the first is the one
/// of a session that nobody touched.
const SQUARE: [Colour; 3] = [Colour(255, 160, 0), Colour(80, 220, 120), Colour(230, 80, 160)];
const SQUARE_X_PIXELS_PER_S: u64 = 240;
const SQUARE_Y_PIXELS_PER_S: u64 = 130;

const MARKER_RADIUS: u16 = 12;
const MARKER: Colour = Colour(255, 64, 64);

const WORD_COLOUR: Colour = Colour(0x38, 0x58, 0x78);
const WORD_SCALE: u16 = 12;
const WORD_LEFT: u16 = 266;
const WORD_TOP: u16 = 470;
/// `RINGWAY`, one string per row of pixels.
const WORD: [&[u8]; 7] = [
    b"####. .###. #...# .###. #...# .###. #...#",
    b"#...# ..#.. ##..# #...# #...# #...# #...#",
    b"#...# ..#.. ##..# #.... #...# #...# .#.#.",
    b"####. ..#.. #.#.# #.### #.#.# ##### ..#..",
    b"#.#.. ..#.. #..## #...# #.#.# #...# ..#..",
    b"#..#. ..#.. #..## #...# ##.## #...# ..#..",
    b"#...# .###. #...# .###. #...# #...# ..#..",
];

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    /// Whether no channel differs by more than `tolerance`.
    #[must_use]
    pub const fn is_near(self, other: Self, tolerance: u8) -> bool {
        self.0.abs_diff(other.0) <= tolerance
            && self.1.abs_diff(other.1) <= tolerance
            && self.2.abs_diff(other.2) <= tolerance
    }
}

/// A part of the desktop. Never empty, never outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub x: u16,
    pub y: u16,
    pub width: u16,
    pub height: u16,
}

impl Rect {
    /// The whole desktop.
    pub const DESKTOP: Self = Self { x: 0, y: 0, width: WIDTH, height: HEIGHT };

    const fn contains(self, x: u16, y: u16) -> bool {
        x >= self.x && y >= self.y && x - self.x < self.width && y - self.y < self.height
    }

    /// The smallest rectangle that holds both.
    fn union(self, other: Self) -> Self {
        let x = self.x.min(other.x);
        let y = self.y.min(other.y);
        let right = (self.x + self.width).max(other.x + other.width);
        let bottom = (self.y + self.height).max(other.y + other.height);
        Self { x, y, width: right - x, height: bottom - y }
    }
}

/// All that the picture depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Time since the session began.
    pub elapsed_ms: u64,
    /// Where the user's mouse was seen last.
    pub pointer: Option<(u16, u16)>,
    /// Keys and buttons pressed so far.
    pub presses: u32,
}

impl Scene {
    /// The colour of one pixel.
    #[must_use]
    pub fn pixel(&self, x: u16, y: u16) -> Colour {
        if let Some((pointer_x, pointer_y)) = self.pointer
            && is_on_ring(x.abs_diff(pointer_x), y.abs_diff(pointer_y))
        {
            return MARKER;
        }
        if y < STAGE_TOP {
            return bar_at(x);
        }
        if self.square().contains(x, y) {
            return square_colour(self.presses);
        }
        if is_word(x, y) { WORD_COLOUR } else { STAGE }
    }

    /// Rows of BGRA pixels, top row first, without gaps.
    #[must_use]
    pub fn paint_bgra(&self, part: Rect) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(usize::from(part.width) * usize::from(part.height) * 4);
        for y in part.y..part.y + part.height {
            for x in part.x..part.x + part.width {
                let Colour(red, green, blue) = self.pixel(x, y);
                pixels.extend([blue, green, red, 255]);
            }
        }
        pixels
    }

    /// What has to be painted again when this scene follows `before`.
    #[must_use]
    pub fn damage_since(&self, before: &Self) -> Vec<Rect> {
        let mut damage = Vec::with_capacity(3);
        if (self.square(), square_colour(self.presses))
            != (before.square(), square_colour(before.presses))
        {
            damage.push(self.square().union(before.square()));
        }
        if self.pointer != before.pointer {
            damage.extend([before.marker(), self.marker()].into_iter().flatten());
        }
        damage
    }

    /// Where the square is.
    #[must_use]
    pub fn square(&self) -> Rect {
        let x = bounce(self.elapsed_ms * SQUARE_X_PIXELS_PER_S / 1000, WIDTH - SQUARE_SIDE);
        let y = bounce(
            self.elapsed_ms * SQUARE_Y_PIXELS_PER_S / 1000,
            HEIGHT - STAGE_TOP - SQUARE_SIDE,
        );
        Rect { x, y: STAGE_TOP + y, width: SQUARE_SIDE, height: SQUARE_SIDE }
    }

    /// The part of the desktop that the mouse marker covers.
    fn marker(&self) -> Option<Rect> {
        let (x, y) = self.pointer?;
        let left = x.saturating_sub(MARKER_RADIUS);
        let top = y.saturating_sub(MARKER_RADIUS);
        let right = x.saturating_add(MARKER_RADIUS + 1).min(WIDTH);
        let bottom = y.saturating_add(MARKER_RADIUS + 1).min(HEIGHT);
        (left < right && top < bottom).then(|| Rect {
            x: left,
            y: top,
            width: right - left,
            height: bottom - top,
        })
    }
}

const fn square_colour(presses: u32) -> Colour {
    let [untouched, second, third] = SQUARE;
    match presses % 3 {
        0 => untouched,
        1 => second,
        _ => third,
    }
}

/// There and back again: a position on a way of `travel` pixels.
fn bounce(distance: u64, travel: u16) -> u16 {
    let travel = u64::from(travel);
    let position = distance % (2 * travel);
    u16::try_from(position.min(2 * travel - position)).unwrap_or(0)
}

fn bar_at(x: u16) -> Colour {
    BARS.get(usize::from(x / BAR_WIDTH)).copied().unwrap_or(STAGE)
}

fn is_on_ring(dx: u16, dy: u16) -> bool {
    if dx > MARKER_RADIUS || dy > MARKER_RADIUS {
        return false;
    }
    let distance_squared = dx * dx + dy * dy;
    (MARKER_RADIUS - 4).pow(2) <= distance_squared && distance_squared <= MARKER_RADIUS.pow(2)
}

fn is_word(x: u16, y: u16) -> bool {
    let (Some(x), Some(y)) = (x.checked_sub(WORD_LEFT), y.checked_sub(WORD_TOP)) else {
        return false;
    };
    let row = WORD.get(usize::from(y / WORD_SCALE));
    row.and_then(|row| row.get(usize::from(x / WORD_SCALE))) == Some(&b'#')
}

/// A decoded desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub width: u16,
    pub height: u16,
    /// Rows of RGBA pixels, top row first, without gaps.
    pub rgba: Vec<u8>,
}

/// A pixel of the bars that is not as painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub x: u16,
    pub y: u16,
    pub expected: Colour,
    pub found: Option<Colour>,
}

/// Compares every pixel of the bars and returns the first that differs by
/// more than `tolerance` in a channel.
///
/// `rgba` and `width` are those of an [`Image`]; borrowed, because a client
/// asks after every update.
#[must_use]
pub fn first_mismatch_in_bars(rgba: &[u8], width: u16, tolerance: u8) -> Option<Mismatch> {
    for y in 0..STAGE_TOP {
        for x in 0..WIDTH {
            let expected = bar_at(x);
            let found = pixel_of(rgba, width, x, y);
            if !found.is_some_and(|found| found.is_near(expected, tolerance)) {
                return Some(Mismatch { x, y, expected, found });
            }
        }
    }
    None
}

/// Finds the square of a session with that many presses, if all of it is there.
#[must_use]
pub fn find_square(rgba: &[u8], width: u16, presses: u32, tolerance: u8) -> Option<(u16, u16)> {
    let colour = square_colour(presses);
    let is_square = |x: u16, y: u16| {
        pixel_of(rgba, width, x, y).is_some_and(|found| found.is_near(colour, tolerance))
    };
    // Any grid finer than the square hits it; then walk to its corner.
    let step = usize::from(SQUARE_SIDE / 2);
    let (mut x, mut y) = (STAGE_TOP..HEIGHT)
        .step_by(step)
        .flat_map(|y| (0..WIDTH).step_by(step).map(move |x| (x, y)))
        .find(|&(x, y)| is_square(x, y))?;
    while x > 0 && is_square(x - 1, y) {
        x -= 1;
    }
    while y > STAGE_TOP && is_square(x, y - 1) {
        y -= 1;
    }
    let whole = (y..y + SQUARE_SIDE).all(|y| (x..x + SQUARE_SIDE).all(|x| is_square(x, y)));
    whole.then_some((x, y))
}

fn pixel_of(rgba: &[u8], width: u16, x: u16, y: u16) -> Option<Colour> {
    if x >= width {
        return None;
    }
    let start = (usize::from(y) * usize::from(width) + usize::from(x)) * 4;
    match rgba.get(start..start + 4)? {
        [red, green, blue, _] => Some(Colour(*red, *green, *blue)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rgba(bgra: &[u8]) -> Vec<u8> {
        bgra.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0], p[3]]).collect()
    }

    #[test]
    fn the_bars_are_recognised_and_one_wrong_pixel_is_found() {
        let mut image = rgba(&Scene::default().paint_bgra(Rect::DESKTOP));
        assert_eq!(first_mismatch_in_bars(&image, WIDTH, 0), None);
        let (x, y) = (900, 383);
        let start = (usize::from(y) * usize::from(WIDTH) + usize::from(x)) * 4;
        image[start + 1] += 3;
        let mismatch = first_mismatch_in_bars(&image, WIDTH, 2).unwrap();
        assert_eq!((mismatch.x, mismatch.y, mismatch.expected), (x, y, BARS[7]));
        assert_eq!(first_mismatch_in_bars(&image, WIDTH, 3), None);
    }

    #[test]
    fn a_black_or_short_image_is_no_picture() {
        let black = vec![0; usize::from(WIDTH) * usize::from(HEIGHT) * 4];
        assert_eq!(first_mismatch_in_bars(&black, WIDTH, 8).map(|m| (m.x, m.y)), Some((0, 0)));
        assert_eq!(find_square(&black, WIDTH, 0, 8), None);
        assert_eq!(first_mismatch_in_bars(&[], WIDTH, 8).unwrap().found, None);
    }

    #[test]
    fn the_square_moves_and_stays_on_the_stage() {
        let positions: Vec<_> =
            (0..200).map(|n| Scene { elapsed_ms: n * 50, ..Scene::default() }.square()).collect();
        assert!(positions.windows(2).all(|pair| pair[0] != pair[1]));
        for square in positions {
            assert!(square.y >= STAGE_TOP && square.y + square.height <= HEIGHT, "{square:?}");
            assert!(square.x + square.width <= WIDTH, "{square:?}");
        }
    }

    fn any_scene() -> impl Strategy<Value = Scene> {
        (0_u64..60_000, prop::option::of((0..WIDTH + 40, 0..HEIGHT + 40)), 0_u32..4)
            .prop_map(|(elapsed_ms, pointer, presses)| Scene { elapsed_ms, pointer, presses })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn damage_is_all_that_changed(before in any_scene(), after in any_scene()) {
            let damage = after.damage_since(&before);
            for part in &damage {
                prop_assert!(part.width > 0 && part.height > 0);
                prop_assert!(part.x + part.width <= WIDTH && part.y + part.height <= HEIGHT);
            }
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    if before.pixel(x, y) != after.pixel(x, y) {
                        prop_assert!(damage.iter().any(|part| part.contains(x, y)), "{x} {y}");
                    }
                }
            }
        }

        #[test]
        fn the_square_is_found_where_it_is(
            elapsed_ms in 0_u64..3_600_000,
            presses in 0_u32..6,
        ) {
            let scene = Scene { elapsed_ms, presses, ..Scene::default() };
            let image = rgba(&scene.paint_bgra(Rect::DESKTOP));
            prop_assert_eq!(
                find_square(&image, WIDTH, presses, 0),
                Some((scene.square().x, scene.square().y))
            );
            prop_assert_eq!(find_square(&image, WIDTH, presses + 1, 0), None);
        }
    }
}
