//! Holds `docs/format.md` and this folder together: every table of the page is compared with the constants, and its example with what
//! the encoder gives.

use super::{frame, manifest, segment};
use crate::sys::crc;

const PAGE: &str = include_str!("../../docs/format.md");

/// A field as the page has it.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    offset: usize,
    /// None: the rest.
    len: Option<usize>,
    name: String,
}

/// The cells of each row of the first table behind `heading`, without the two lines that head it.
fn rows_after(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = PAGE.split_once(heading).unwrap_or_else(|| panic!("the page has no {heading:?}"));
    let table = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The fields of the table that the page marks with `name`, which leave no hole between them.
fn fields(name: &str) -> Vec<Field> {
    let rows = rows_after(&format!("<!-- table: {name} -->"));
    let field = |row: &Vec<&str>| Field {
        offset: row[0].parse().unwrap_or_else(|e| panic!("{name}: {row:?}: {e}")),
        len: row[1].parse().ok(),
        name: row[2].to_owned(),
    };
    let fields: Vec<Field> = rows.iter().map(field).collect();
    let mut end = Some(0);
    for field in &fields {
        assert_eq!(Some(field.offset), end, "{name}: {field:?} does not begin where the one before ends");
        end = field.len.map(|len| field.offset + len);
    }
    fields
}

/// Checks the table `name` against `constants`, each an offset, a length and a name, and against the length of the whole.
fn check(name: &str, constants: &[(usize, usize, &str)], total_len: usize) {
    let fields = fields(name);
    let on_page: Vec<_> = fields
        .iter()
        .filter(|field| field.name != "reserved")
        .map(|field| (field.offset, field.len.unwrap_or(0), field.name.as_str()))
        .collect();
    assert_eq!(on_page, constants, "{name}");
    let end = fields.last().and_then(|last| Some(last.offset + last.len?));
    assert_eq!(end, Some(total_len), "{name}");
}

#[test]
fn manifest_slot() {
    let constants = [
        (0, 8, "magic"),
        (super::BLOCK_VERSION, 4, "version"),
        (manifest::FLAGS, 4, "flags"),
        (manifest::LOG_ID, 16, "log id"),
        (manifest::GENERATION, 8, "generation"),
        (manifest::FIRST_SEGMENT, 8, "first segment"),
        (manifest::FIRST_SEQ, 8, "first seq"),
        (manifest::CUT_SEGMENT, 8, "cut segment"),
        (manifest::CUT_END_SEQ, 8, "cut end seq"),
        (manifest::CUT_END_OFFSET, 8, "cut end offset"),
        (manifest::CUT_NEXT_ID, 8, "cut next id"),
        (manifest::MARK_SEQ, 8, "mark seq"),
        (manifest::MARK_SEGMENT, 8, "mark segment"),
        (manifest::MARK_OFFSET, 8, "mark offset"),
        (manifest::LAST_TIMESTAMP, 8, "last timestamp"),
        (manifest::LOST_START, 8, "lost start"),
        (manifest::LOST_END, 8, "lost end"),
        (manifest::SLOT_CRC, 4, "checksum"),
    ];
    check("manifest slot", &constants, manifest::SLOT_LEN);
    for (slot, offset) in manifest::SLOT_OFFSETS.iter().enumerate() {
        assert!(PAGE.contains(&format!("\n| {slot} | {offset} |\n")), "slot {slot}");
    }
    assert!(PAGE.contains(&format!("\n{} bytes: two slots", manifest::FILE_LEN)));
    assert_eq!(manifest::FLAG_CLEAN, 1, "bit 0");
}

#[test]
fn identity() {
    let constants = [
        (0, 8, "magic"),
        (super::BLOCK_VERSION, 4, "version"),
        (segment::ORIGIN, 4, "origin"),
        (segment::LOG_ID, 16, "log id"),
        (segment::SEGMENT_ID, 8, "segment id"),
        (segment::SALT, 8, "salt"),
        (segment::IDENTITY_CRC, 4, "checksum"),
    ];
    check("identity", &constants, segment::BLOCK_LEN);
    assert_eq!((segment::Origin::Fresh as u32, segment::Origin::Recycled as u32), (0, 1));
}

#[test]
fn link() {
    let constants = [
        (segment::BASE_SEQ, 8, "base seq"),
        (segment::PREDECESSOR, 8, "predecessor"),
        (segment::PREDECESSOR_END_SEQ, 8, "predecessor end seq"),
        (segment::PREDECESSOR_END_OFFSET, 8, "predecessor end offset"),
        (segment::LINK_SALT, 8, "link salt"),
        (segment::LINK_CRC, 4, "checksum"),
    ];
    check("link", &constants, segment::BLOCK_LEN);
    assert!(PAGE.contains(&format!("is found {} bytes into the file", segment::LINK_OFFSET)));
    assert!(PAGE.contains(&format!("the first one at {},", segment::FRAMES_OFFSET)));
}

#[test]
fn frame_header() {
    let constants = [
        (frame::HEADER_CRC, 4, "header checksum"),
        (frame::LENGTH, 4, "length"),
        (frame::SEQ, 8, "seq"),
        (frame::WITNESS_DISTANCE, 4, "witness distance"),
        (frame::PAYLOAD_CRC, 4, "payload checksum"),
        (frame::TIMESTAMP, 6, "timestamp"),
        (frame::KIND, 1, "kind"),
        (frame::FLAGS, 1, "flags"),
    ];
    check("frame header", &constants, frame::HEADER_LEN);
    let flags: Vec<_> = rows_after("| 31 | 1 | flags | see below |\n")
        .iter()
        .map(|row| (row[0].parse::<u8>().unwrap(), row[1]))
        .collect();
    assert_eq!(flags, [(frame::FLAG_LZ4, "LZ4"), (frame::FLAG_FIRST, "first"), (frame::FLAG_LAST, "last")]);
    assert_eq!((frame::KIND_ENTRY, frame::NO_WITNESS, frame::ALIGN), (1, u32::MAX, 8));
    assert_eq!(frame::TIMESTAMP_MAX, (1 << 48) - 1);
}

#[test]
fn compressed_payload() {
    let fields = fields("compressed payload");
    assert_eq!(
        fields.iter().map(|f| (f.offset, f.name.as_str())).collect::<Vec<_>>(),
        [(0, "raw length"), (4, "block")]
    );
    let raw = [b'a'; 1000];
    let stored = frame::compress(&raw).unwrap();
    assert_eq!(super::u32_at(&stored, fields[0].offset), 1000);
    assert_eq!(frame::decompress(&stored).unwrap(), raw);
    let block = &stored[fields[1].offset..];
    assert_eq!(lz4_flex::block::decompress(block, 1000).unwrap(), raw);
    // The bound, from both sides: the length is believed up to it, and refused above it.
    let claiming = |len: u32| [&len.to_le_bytes()[..], block].concat();
    let bound = 255 * block.len() as u32;
    assert!(PAGE.contains("at most 255 times"));
    assert!(frame::decompress(&claiming(bound)).is_err(), "within the bound, and not what the block gives");
    assert!(frame::decompress(&claiming(bound + 1)).is_err());
}

#[test]
fn constants() {
    let rows = rows_after("are not looked at, but checksums cover them.\n");
    let magic = |magic: [u8; 8]| format!("`{}`", String::from_utf8_lossy(&magic));
    let expected = [
        ("version", super::VERSION.to_string()),
        ("magic of a manifest slot", magic(manifest::MAGIC)),
        ("magic of a segment", magic(segment::MAGIC)),
        ("first seq that no log reaches", super::SEQ_LIMIT.to_string()),
    ];
    let on_page: Vec<_> = rows.iter().map(|row| (row[0], row[1].to_owned())).collect();
    assert_eq!(on_page, expected);
}

/// The bytes on the page were worked out by another program than this one.
#[test]
fn the_example_is_what_the_encoder_gives() {
    let (_, rest) = PAGE.split_once("```hex\n").unwrap();
    let (hex, _) = rest.split_once("```").unwrap();
    let bytes: Vec<u8> = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let payload = b"hello, log";
    let header = frame::Header {
        seq: 7,
        stored_len: payload.len() as u32,
        witness_distance: 2,
        payload_crc: crc::crc32c(payload),
        timestamp_ms: 1_700_000_000_000,
        flags: frame::FLAGS_ALONE,
    };
    let seed = frame::Seed::new(0x0123_4567_89ab_cdef);
    assert_eq!(bytes.len() as u64, header.frame_len());
    assert_eq!(bytes[..frame::HEADER_LEN], header.encode(seed, segment::FRAMES_OFFSET));
    assert_eq!(&bytes[frame::HEADER_LEN..][..payload.len()], payload);

    let mut image = vec![0; segment::FRAMES_OFFSET as usize];
    image.extend(&bytes);
    let decoded = frame::Header::decode(&image, seed, segment::FRAMES_OFFSET).unwrap();
    assert_eq!(decoded, header);
    decoded.check_body(&image, segment::FRAMES_OFFSET).unwrap();
}
