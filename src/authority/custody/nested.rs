//! One secret sealed to several people, one inside the other: `age( first, age( second, ... secret ) )`.
//!
//! Opens with plain age, in the order of the names in the file's name: `age -d -i alice.key alice.bob.age | age -d -i bob.key`.

use std::io::Read as _;

use age::x25519::{Identity, Recipient};
use zeroize::Zeroizing;

use crate::repo::seal::{SealError, decrypt, seal_plain};

/// Seals `secret`: the first of `order` opens the outermost layer.
///
/// # Errors
/// `Sealing`, when encryption fails.
pub fn seal(secret: &[u8], order: &[&Recipient]) -> Result<Vec<u8>, SealError> {
    let mut layers = order.iter().rev();
    let Some(innermost) = layers.next() else {
        return Err(SealError::Sealing(std::io::Error::other("it would be sealed to nobody")));
    };
    let sealed = seal_plain(innermost, secret)?;
    layers.try_fold(sealed, |inner, recipient| seal_plain(recipient, &inner))
}

/// Opens what [`seal`] made for the same people, in the same order.
///
/// # Errors
/// `WrongKey`, `NotAge`, `Altered`: of whichever layer.
pub fn open(sealed: &[u8], order: &[&Identity]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let outer = Zeroizing::new(sealed.to_vec());
    order.iter().try_fold(outer, |layer, identity| {
        // What is inside is shorter than the layer around it: the buffer never grows, so no copy of a secret is left behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(layer.len()));
        decrypt(identity, &layer)?.read_to_end(&mut plain).map_err(SealError::Altered)?;
        Ok(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_in_its_order_with_everybody_and_otherwise_not() {
        let people: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
        let recipients: Vec<Recipient> = people.iter().map(Identity::to_public).collect();
        let sealed = seal(b"secret", &recipients.iter().collect::<Vec<_>>()).unwrap();
        let [a, b, c] = [&people[0], &people[1], &people[2]];
        assert_eq!(**open(&sealed, &[a, b, c]).unwrap(), *b"secret");
        for order in [&[a, c, b][..], &[b, a, c], &[c, b, a], &[b, c], &[c]] {
            assert!(open(&sealed, order).is_err());
        }
        let short = open(&sealed, &[a, b]).unwrap();
        assert!(short.starts_with(b"age-encryption.org/v1"), "two of three have a sealed layer and nothing else");
        assert!(seal(b"secret", &[]).is_err());
    }

    #[test]
    fn every_flipped_byte_of_the_outer_layer_is_noticed() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let sealed = seal(b"secret", &[&a.to_public(), &b.to_public()]).unwrap();
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&altered, &[&a, &b]).is_err(), "flipped at {at}");
            assert!(open(&sealed[..at], &[&a, &b]).is_err(), "cut at {at}");
        }
    }
}
