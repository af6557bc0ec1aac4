//! The verdict: whether the place where the log stops being valid is a torn tail or damage.
//!
//! X is the first seq whose frame, or batch, is not valid. M is the highest seq that any witness claims: the mark, a cut, a frame of
//! a live segment. What M covers was on the disk when the witness was written, so a crash cannot have taken it.

/// Why the log stops being valid at X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no valid frame, or no complete batch; or no file with a valid link that should hold it.
    Frame,
    /// The file that should hold it ends before.
    Short,
    /// No seq is missing, but a segment that the manifest names, in its mark or its cut, is not reached. A witness is a claim about a
    /// place: a chain that does not lead there has taken another way, however far its seqs go.
    Unreached,
    /// The file that should hold it has no valid identity. It was synced before the file got its name: no crash does that.
    Identity,
}

/// What to do with what lies at X and past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The torn tail of a crash: drop it.
    Torn,
    /// Acked entries are not what they were: say so.
    Damage,
}

/// Whether a witness reaches X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Covered,
    Uncovered,
}

const TABLE: [(Fault, Proof, Verdict); 8] = [
    (Fault::Frame, Proof::Covered, Verdict::Damage),
    (Fault::Frame, Proof::Uncovered, Verdict::Torn),
    (Fault::Short, Proof::Covered, Verdict::Damage),
    (Fault::Short, Proof::Uncovered, Verdict::Torn),
    (Fault::Unreached, Proof::Covered, Verdict::Damage),
    (Fault::Unreached, Proof::Uncovered, Verdict::Damage),
    (Fault::Identity, Proof::Covered, Verdict::Damage),
    (Fault::Identity, Proof::Uncovered, Verdict::Damage),
];

/// The verdict on `fault` at seq `x`, when the highest witness claims `m`.
pub(crate) fn verdict(fault: Fault, x: u64, m: u64) -> Verdict {
    let proof = if x <= m { Proof::Covered } else { Proof::Uncovered };
    let row = TABLE.iter().find(|(f, p, _)| (*f, *p) == (fault, proof));
    // A case that the table does not know must not lose data.
    row.map_or(Verdict::Damage, |(_, _, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_row_matches_every_case() {
        for fault in [Fault::Frame, Fault::Short, Fault::Unreached, Fault::Identity] {
            for proof in [Proof::Covered, Proof::Uncovered] {
                let rows = TABLE.iter().filter(|(f, p, _)| (*f, *p) == (fault, proof)).count();
                assert_eq!(rows, 1, "{fault:?} {proof:?}");
            }
        }
    }

    #[test]
    fn a_witness_that_just_reaches_x_makes_it_damage() {
        for fault in [Fault::Frame, Fault::Short] {
            assert_eq!(verdict(fault, 100, 99), Verdict::Torn);
            assert_eq!(verdict(fault, 100, 100), Verdict::Damage);
            assert_eq!(verdict(fault, 100, 101), Verdict::Damage);
        }
        assert_eq!(verdict(Fault::Identity, 100, 0), Verdict::Damage);
        assert_eq!(verdict(Fault::Unreached, 100, 50), Verdict::Damage);
    }
}
