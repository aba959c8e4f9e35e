//! Icons, drawn here: a monitor for a desktop, a window for an application, on
//! a colour that its id chooses, so that neighbours can be told apart. The same
//! id always has the same icon.

use crate::wire::feed::ResourceKind;
use crate::wire::tswp::ICON_SIZES;

/// Sizes inside the `.ico` file.
const ICO_SIZES: [u32; 4] = [16, 32, 48, 256];
const ICO_HEADER_BYTES: u32 = 6;
const ICO_ENTRY_BYTES: u32 = 16;

type Colour = [f32; 3];

const WHITE: Colour = [255.0, 255.0, 255.0];
/// All dark enough for white shapes on them.
const COLOURS: [Colour; 8] = [
    [37.0, 99.0, 235.0],
    [15.0, 118.0, 110.0],
    [124.0, 58.0, 237.0],
    [180.0, 83.0, 9.0],
    [190.0, 24.0, 93.0],
    [21.0, 128.0, 61.0],
    [3.0, 105.0, 161.0],
    [159.0, 18.0, 57.0],
];

/// A square PNG of `size` pixels, at most the largest of [`ICON_SIZES`].
#[must_use]
pub fn png(kind: ResourceKind, id: &str, size: u32) -> Vec<u8> {
    let size = size.clamp(1, ICON_SIZES.into_iter().max().unwrap_or(1));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size, size);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels = draw(kind, colour_of(id), size);
    let written = encoder.write_header().and_then(|mut png| png.write_image_data(&pixels));
    // Into memory, and as many pixels as announced: nothing is left to fail.
    debug_assert!(written.is_ok(), "{written:?}");
    file
}

/// A Windows icon file with several sizes, each as PNG.
#[must_use]
pub fn ico(kind: ResourceKind, id: &str) -> Vec<u8> {
    let images = ICO_SIZES.map(|size| (size, png(kind, id, size)));
    let mut file = vec![0, 0, 1, 0, 4, 0];
    let mut offset = ICO_HEADER_BYTES + 4 * ICO_ENTRY_BYTES;
    for (size, image) in &images {
        let length = u32::try_from(image.len()).unwrap_or(u32::MAX);
        let side = u8::try_from(*size).unwrap_or(0); // 0 stands for 256
        file.extend([side, side, 0, 0, 1, 0, 32, 0]);
        file.extend(length.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset = offset.saturating_add(length);
    }
    file.extend(images.into_iter().flat_map(|(_, image)| image));
    file
}

fn colour_of(id: &str) -> Colour {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193) // FNV-1a
    });
    let [low, _, high, _] = hash.to_le_bytes();
    COLOURS.into_iter().cycle().nth(usize::from(low ^ high)).unwrap_or(WHITE)
}

/// RGBA, row by row.
fn draw(kind: ResourceKind, colour: Colour, size: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(4 * size as usize * size as usize);
    for row in 0..size {
        for column in 0..size {
            pixels.extend(pixel(kind, colour, size, column, row));
        }
    }
    pixels
}

fn pixel(kind: ResourceKind, colour: Colour, size: u32, column: u32, row: u32) -> [u8; 4] {
    #[expect(clippy::cast_precision_loss, reason = "at most 256")]
    let [x, y, scale] = [column, row, size].map(|n| n as f32);
    let brush = Brush { x: (x + 0.5) / scale, y: (y + 0.5) / scale, scale };
    let mut paint = mix(colour, WHITE, 0.16 * (1.0 - brush.y)); // light from above
    let dark = mix(colour, [0.0; 3], 0.35);
    let mut lay = |shape: f32, ink: Colour| paint = mix(paint, ink, shape);
    match kind {
        ResourceKind::Desktop => {
            lay(brush.rectangle(0.5, 0.43, 0.31, 0.22, 0.045), WHITE);
            lay(brush.rectangle(0.5, 0.43, 0.26, 0.17, 0.02), dark);
            lay(brush.rectangle(0.5, 0.695, 0.06, 0.055, 0.0), WHITE);
            lay(brush.rectangle(0.5, 0.765, 0.17, 0.03, 0.03), WHITE);
        }
        ResourceKind::RemoteApp => {
            lay(brush.rectangle(0.5, 0.5, 0.31, 0.27, 0.05), WHITE);
            lay(brush.rectangle(0.5, 0.565, 0.26, 0.155, 0.02), dark);
            for dot in [0.265, 0.335, 0.405] {
                lay(brush.rectangle(dot, 0.32, 0.022, 0.022, 0.022), colour);
            }
        }
    }
    let [red, green, blue] = paint.map(byte);
    [red, green, blue, byte(255.0 * brush.rectangle(0.5, 0.5, 0.47, 0.47, 0.2))]
}

/// One pixel's centre, in a square of side 1.
struct Brush {
    x: f32,
    y: f32,
    scale: f32,
}

impl Brush {
    /// How much of the pixel a rounded rectangle covers, from 0 to 1; `w` and
    /// `h` are half of its sides.
    fn rectangle(&self, x: f32, y: f32, w: f32, h: f32, radius: f32) -> f32 {
        let dx = (self.x - x).abs() - (w - radius);
        let dy = (self.y - y).abs() - (h - radius);
        let distance = dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius;
        (0.5 - distance * self.scale).clamp(0.0, 1.0)
    }
}

fn mix(below: Colour, above: Colour, share: f32) -> Colour {
    let [r, g, b] = below;
    let [r2, g2, b2] = above;
    [(r, r2), (g, g2), (b, b2)].map(|(below, above)| below + (above - below) * share)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(file: &[u8]) -> (u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.width, info.height);
        (info.width, pixels)
    }

    #[test]
    fn every_size_is_a_square_picture_with_clear_corners() {
        for size in ICON_SIZES {
            for kind in [ResourceKind::Desktop, ResourceKind::RemoteApp] {
                let (side, pixels) = pixels(&png(kind, "desktop", size));
                assert_eq!(side, size);
                assert_eq!(pixels[3], 0, "the corner is clear");
                let middle = 4 * (size * (size / 2) + size / 2) as usize;
                assert_eq!(pixels[middle + 3], 255, "the middle is not");
            }
        }
        let desktop = png(ResourceKind::Desktop, "a", 64);
        assert_eq!(desktop, png(ResourceKind::Desktop, "a", 64));
        assert_ne!(desktop, png(ResourceKind::RemoteApp, "a", 64));
    }

    #[test]
    fn an_ico_file_holds_a_picture_at_every_offset() {
        let file = ico(ResourceKind::RemoteApp, "paint");
        assert_eq!(&file[..6], &[0, 0, 1, 0, 4, 0]);
        let number = |at: usize| {
            usize::try_from(u32::from_le_bytes(file[at..at + 4].try_into().unwrap())).unwrap()
        };
        let mut end = 0;
        for (index, size) in ICO_SIZES.into_iter().enumerate() {
            let entry = 6 + 16 * index;
            assert_eq!(u32::from(file[entry]), size % 256);
            let (length, offset) = (number(entry + 8), number(entry + 12));
            assert_eq!(pixels(&file[offset..offset + length]).0, size);
            end = offset + length;
        }
        assert_eq!(end, file.len());
    }

    #[test]
    fn ids_differ_in_colour() {
        let colours: std::collections::HashSet<_> =
            (0..64).map(|n| colour_of(&format!("res-{n}")).map(byte)).collect();
        assert_eq!(colours.len(), COLOURS.len());
    }
}
