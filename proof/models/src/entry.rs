//! Entries that name themselves: every byte follows from an id that is given once.

const MAGIC: [u8; 8] = *b"anEntry:";
/// Magic, id, length.
const MIN_LEN: usize = 24;

/// The bytes of the entry with this id, `len` of them or the fewest that say so.
pub(crate) fn bytes(id: u64, len: usize) -> Vec<u8> {
    let len = len.max(MIN_LEN);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(MAGIC);
    bytes.extend(id.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
    bytes.extend((MIN_LEN..len).map(|at| fill(id, at)));
    bytes
}

fn fill(id: u64, at: usize) -> u8 {
    (id as usize * 31 + at * 7) as u8
}

/// The id of an entry, if every byte is as it was made.
pub(crate) fn id_of(payload: &[u8]) -> Option<u64> {
    let (id, len) = head(payload)?;
    (len == payload.len() && is_whole(id, payload)).then_some(id)
}

/// The ids of all entries whose bytes lie in `image`, each in whole: payloads start at multiples of eight.
pub(crate) fn ids_in(image: &[u8]) -> impl Iterator<Item = u64> + '_ {
    (0..image.len()).step_by(8).filter_map(|at| {
        let (id, len) = head(&image[at..])?;
        let payload = image.get(at..at.checked_add(len)?)?;
        is_whole(id, payload).then_some(id)
    })
}

fn head(bytes: &[u8]) -> Option<(u64, usize)> {
    let head = bytes.get(..MIN_LEN).filter(|head| head[..8] == MAGIC)?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| head[at + index]));
    Some((word(8), usize::try_from(word(16)).ok().filter(|len| *len >= MIN_LEN)?))
}

fn is_whole(id: u64, payload: &[u8]) -> bool {
    payload.iter().enumerate().skip(MIN_LEN).all(|(at, byte)| *byte == fill(id, at))
}
