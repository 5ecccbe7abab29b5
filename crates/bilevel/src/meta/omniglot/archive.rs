//! As much of ZIP (APPNOTE 6.3, without ZIP64 and encryption) and PNG (ISO 15948, grey without interlacing) as Omniglot needs.

use std::io::Read;

use flate2::Crc;
use flate2::read::{DeflateDecoder, ZlibDecoder};

type Result<T> = std::result::Result<T, String>;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    method: u16,
    crc: u32,
    packed: usize,
    size: usize,
    offset: usize,
}

/// Share of ink by pixel, rows first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub width: usize,
    pub height: usize,
    pub ink: Vec<f32>,
}

fn bytes<const N: usize>(all: &[u8], at: usize) -> Result<[u8; N]> {
    let part = at.checked_add(N).and_then(|end| all.get(at..end));
    part.and_then(|part| part.try_into().ok()).ok_or_else(|| "it ends too early".into())
}

fn two(all: &[u8], at: usize) -> Result<u16> {
    bytes(all, at).map(u16::from_le_bytes)
}

fn four(all: &[u8], at: usize) -> Result<u32> {
    bytes(all, at).map(u32::from_le_bytes)
}

/// The files of an archive, from its central directory.
pub(super) fn entries(archive: &[u8]) -> Result<Vec<Entry>> {
    // The end record is 22 bytes and a comment of up to 65,535.
    let last = archive.len().checked_sub(22).ok_or("not a ZIP archive")?;
    let from = last.saturating_sub(65_535);
    let end = (from..=last).rev().find(|at| archive[*at..].starts_with(b"PK\x05\x06")).ok_or("not a ZIP archive")?;
    let count = two(archive, end + 10)?;
    let mut at = four(archive, end + 16)? as usize;
    let mut entries = Vec::new();
    for _ in 0..count {
        if four(archive, at)? != 0x0201_4b50 {
            return Err("its directory is damaged".into());
        }
        let [name, extra, comment] = [28, 30, 32].map(|field| two(archive, at + field).map(usize::from));
        let name = name?;
        let text = archive.get(at + 46..at + 46 + name).ok_or("it ends too early")?;
        entries.push(Entry {
            name: String::from_utf8_lossy(text).into_owned(),
            method: two(archive, at + 10)?,
            crc: four(archive, at + 16)?,
            packed: four(archive, at + 20)? as usize,
            size: four(archive, at + 24)? as usize,
            offset: four(archive, at + 42)? as usize,
        });
        at += 46 + name + extra? + comment?;
    }
    Ok(entries)
}

/// The content of a file.
pub(super) fn unpack(archive: &[u8], entry: &Entry) -> Result<Vec<u8>> {
    if four(archive, entry.offset)? != 0x0403_4b50 {
        return Err("no file lies where the directory says".into());
    }
    let (name, extra) = (two(archive, entry.offset + 26)?, two(archive, entry.offset + 28)?);
    let start = entry.offset + 30 + usize::from(name) + usize::from(extra);
    let packed = archive.get(start..start + entry.packed).ok_or("it ends too early")?;
    let content = match entry.method {
        0 => packed.to_vec(),
        8 => {
            let mut content = Vec::new();
            let limit = entry.size as u64 + 1;
            DeflateDecoder::new(packed).take(limit).read_to_end(&mut content).map_err(|error| error.to_string())?;
            content
        }
        other => return Err(format!("packing method {other}, expected 0 or 8")),
    };
    let mut crc = Crc::new();
    crc.update(&content);
    match content.len() == entry.size && crc.sum() == entry.crc {
        true => Ok(content),
        false => Err("its checksum does not match".into()),
    }
}

/// The ink of a grey PNG: 1 for black, 0 for white.
pub(super) fn ink(png: &[u8]) -> Result<Image> {
    if !png.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Err("not a PNG image".into());
    }
    let (mut at, mut header, mut packed) = (8, None, Vec::new());
    loop {
        let length = bytes(png, at).map(u32::from_be_bytes)? as usize;
        let kind: [u8; 4] = bytes(png, at + 4)?;
        let content = png.get(at + 8..(at + 8).saturating_add(length)).ok_or("it ends too early")?;
        match &kind {
            b"IHDR" => header = Some(content),
            b"IDAT" => packed.extend_from_slice(content),
            b"IEND" => break,
            _ => {}
        }
        at += 12 + length;
    }
    let header = header.ok_or("no header")?;
    let size = |at| bytes(header, at).map(u32::from_be_bytes).map(|size| size as usize);
    let (width, height) = (size(0)?, size(4)?);
    let [depth, colour, _, _, interlace]: [u8; 5] = bytes(header, 8)?;
    if colour != 0 || interlace != 0 || !matches!(depth, 1 | 2 | 4 | 8) {
        return Err("expected grey values of at most 8 bits, without interlacing".into());
    }
    if width == 0 || height == 0 || width > 4096 || height > 4096 {
        return Err(format!("{width} × {height} pixels, expected 1 to 4096"));
    }
    let depth = usize::from(depth);
    let stride = (width * depth).div_ceil(8);
    let mut lines = Vec::new();
    let expected = height * (stride + 1);
    ZlibDecoder::new(&packed[..])
        .take(expected as u64 + 1)
        .read_to_end(&mut lines)
        .map_err(|error| error.to_string())?;
    if lines.len() != expected {
        return Err(format!("{} bytes of pixels, expected {expected}", lines.len()));
    }
    let mut above = vec![0u8; stride];
    let mut ink = Vec::with_capacity(width * height);
    for line in lines.chunks(stride + 1) {
        let row = unfilter(line[0], &line[1..], &above)?;
        for x in 0..width {
            let bit = x * depth;
            let value = (row[bit / 8] >> (8 - depth - bit % 8)) & (u8::MAX >> (8 - depth));
            ink.push(1.0 - f32::from(value) / f32::from(u8::MAX >> (8 - depth)));
        }
        above = row;
    }
    Ok(Image { width, height, ink })
}

/// A line without its filter; all have one byte a pixel or less.
fn unfilter(filter: u8, line: &[u8], above: &[u8]) -> Result<Vec<u8>> {
    let mut row: Vec<u8> = Vec::with_capacity(line.len());
    for (i, byte) in line.iter().enumerate() {
        let (left, corner) = if i == 0 { (0, 0) } else { (row[i - 1], above[i - 1]) };
        let guess = match filter {
            0 => 0,
            1 => left,
            2 => above[i],
            3 => ((u16::from(left) + u16::from(above[i])) / 2) as u8,
            4 => {
                let (a, b, c) = (i16::from(left), i16::from(above[i]), i16::from(corner));
                let p = a + b - c;
                let [to_a, to_b, to_c] = [a, b, c].map(|x| (p - x).abs());
                if to_a <= to_b && to_a <= to_c {
                    left
                } else if to_b <= to_c {
                    above[i]
                } else {
                    corner
                }
            }
            other => return Err(format!("line filter {other}, expected 0 to 4")),
        };
        row.push(byte.wrapping_add(guess));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use std::io::Write;

    fn png(width: u32, height: u32, depth: u8, lines: &[u8]) -> Vec<u8> {
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        packer.write_all(lines).unwrap();
        let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
        header.extend([depth, 0, 0, 0, 0]);
        for (kind, content) in [(b"IHDR", header), (b"IDAT", packer.finish().unwrap()), (b"IEND", vec![])] {
            image.extend((content.len() as u32).to_be_bytes());
            image.extend(kind);
            image.extend(content);
            image.extend([0; 4]);
        }
        image
    }

    fn zip(name: &str, content: &[u8]) -> Vec<u8> {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
        packer.write_all(content).unwrap();
        let packed = packer.finish().unwrap();
        let mut crc = Crc::new();
        crc.update(content);
        let sizes = [crc.sum(), packed.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let mut file = b"PK\x03\x04".to_vec();
        file.extend([20, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
        file.extend(&sizes);
        file.extend([name.len() as u8, 0, 0, 0]);
        file.extend(name.as_bytes());
        file.extend(&packed);
        let start = file.len() as u32;
        file.extend(b"PK\x01\x02");
        file.extend([20, 0, 20, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
        file.extend(&sizes);
        file.extend([name.len() as u8, 0]);
        file.extend([0; 16]);
        file.extend(name.as_bytes());
        let length = file.len() as u32 - start;
        file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        file.extend(length.to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend([0, 0]);
        file
    }

    #[test]
    fn images_by_hand() {
        // One bit a pixel: ink where it is 0.
        let image = ink(&png(3, 2, 1, &[0, 0b1010_0000, 0, 0b0110_0000])).unwrap();
        assert_eq!((image.width, image.ink), (3, vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0]));
        // Eight bits, each filter on lines that are all (10, 20, 40).
        let lines = [[0, 10, 20, 40], [1, 10, 10, 20], [2, 0, 0, 0], [3, 5, 5, 10], [4, 0, 0, 0]].concat();
        let image = ink(&png(3, 5, 8, &lines)).unwrap();
        for row in image.ink.chunks(3) {
            assert_eq!(row, [10.0f32, 20.0, 40.0].map(|v| 1.0 - v / 255.0));
        }
    }

    #[test]
    fn archives_and_what_is_wrong_with_them() {
        let file = zip("a/b/c.png", b"some content, some content");
        let entries = entries(&file).unwrap();
        assert_eq!(entries[0].name, "a/b/c.png");
        assert_eq!(unpack(&file, &entries[0]).unwrap(), b"some content, some content");
        let mut damaged = file.clone();
        damaged[45] ^= 0xff;
        assert!(unpack(&damaged, &entries[0]).is_err());
        for cut in 0..file.len() {
            // Never a panic.
            if let Ok(entries) = super::entries(&file[..cut]) {
                entries.iter().for_each(|entry| drop(unpack(&file[..cut], entry)));
            }
        }
        let image = png(3, 2, 1, &[0, 160, 0, 96]);
        assert!((0..image.len() - 4).all(|cut| ink(&image[..cut]).is_err()));
        assert!(ink(&png(3, 2, 1, &[7, 160, 0, 96])).is_err() && ink(&png(3, 2, 16, &[0; 14])).is_err());
        assert!(ink(&png(3, 3, 1, &[0, 160, 0, 96])).is_err() && ink(&png(0, 3, 1, &[])).is_err());
    }
}
