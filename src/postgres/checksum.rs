//! The checksum of a page: `pg_checksum_page` (`src/include/storage/checksum_impl.h`), exact.
//!
//! The page is 64 rows of 32 little-endian words; each column has its own FNV-1a-like sum, so that 32 run side by side
//! in vector registers; at the end the sums are mixed, folded, tied to the block's number and brought into 1..=65535.
//! The two checksum bytes count as zero. It finds damage, not intent: whoever can write a page can fit its sum.

use super::relation::PAGE_BYTES;

const SUMS: usize = 32;
const FNV_PRIME: u32 = 16_777_619;
/// Where `pd_checksum` lies in a page.
const CHECKSUM_AT: usize = 8;

/// `checksumBaseOffsets`: random starting values, so that zero columns do not cancel.
const BASE: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum that a page of [`PAGE_BYTES`] should carry as block number `block` of its relation; `None` when `page`
/// has another length.
#[must_use]
pub fn page_checksum(page: &[u8], block: u32) -> Option<u16> {
    if page.len() != PAGE_BYTES {
        return None;
    }
    let mut sums = BASE;
    let (rows, _) = page.as_chunks::<{ SUMS * 4 }>();
    for (index, row) in rows.iter().enumerate() {
        if index == 0 {
            let mut first = *row;
            first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
            add(&mut sums, &first);
        } else {
            add(&mut sums, row);
        }
    }
    let zeros = [0; SUMS * 4];
    add(&mut sums, &zeros);
    add(&mut sums, &zeros);
    let folded = sums.iter().fold(block, |folded, sum| folded ^ sum);
    Some((folded % 65_535 + 1) as u16)
}

/// One row into the 32 sums. Kept in this shape for the compiler: it becomes vector code.
#[inline(always)]
fn add(sums: &mut [u32; SUMS], row: &[u8; SUMS * 4]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_stored_checksum_itself_does_not_count_and_every_other_byte_does() {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|i| (i * 7 % 253) as u8).collect();
        let sum = page_checksum(&page, 7).unwrap();
        page[8] ^= 0xFF;
        page[9] ^= 0xFF;
        assert_eq!(page_checksum(&page, 7), Some(sum));
        for at in [0, 7, 10, 127, 128, 4096, 8191] {
            page[at] ^= 1;
            assert_ne!(page_checksum(&page, 7), Some(sum), "byte {at}");
            page[at] ^= 1;
        }
        assert_ne!(page_checksum(&page, 8), Some(sum));
    }

    #[test]
    fn only_whole_pages_have_one() {
        assert_eq!(page_checksum(&[0; 8191], 0), None);
        assert_eq!(page_checksum(&[], 0), None);
    }
}
