//! Dividing what a server has room for between the pools that use it: max-min fair, with floors.
//!
//! Everybody gets a floor; then the smallest demands are met first; what nobody asked for is spread evenly, so that a burst finds it.
//! So nobody waits for what another one has beyond its own demand.

/// What one pool asks for. Unit: connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What it has in any case.
    pub floor: usize,
    /// What it would use now.
    pub demand: usize,
    /// What it may have at the most.
    pub ceiling: usize,
}

/// Each claim's share, in order. Their sum is at most `capacity`, unless the floors alone are more: then each has its floor in
/// proportion, rounded down.
pub fn fair_shares(capacity: usize, claims: &[Claim]) -> Vec<usize> {
    let floor = |claim: &Claim| claim.floor.min(claim.ceiling);
    let floors: usize = claims.iter().map(floor).sum();
    if floors > capacity {
        return claims.iter().map(|claim| floor(claim) * capacity / floors).collect();
    }
    let mut shares: Vec<usize> = claims.iter().map(floor).collect();
    let wanted: Vec<usize> = claims.iter().map(|claim| claim.demand.min(claim.ceiling)).collect();
    let left = fill(capacity - floors, &mut shares, &wanted);
    let ceilings: Vec<usize> = claims.iter().map(|claim| claim.ceiling).collect();
    fill(left, &mut shares, &ceilings);
    shares
}

/// Raises the shares towards `goals`, the one that lacks least first, each by at most an even part of what is left.
fn fill(mut left: usize, shares: &mut [usize], goals: &[usize]) -> usize {
    let mut short: Vec<usize> = (0..shares.len()).filter(|&index| goals[index] > shares[index]).collect();
    short.sort_by_key(|&index| (goals[index] - shares[index], index));
    let mut waiting = short.len();
    for index in short {
        // The last ones get the remainder of an uneven division.
        let give = (goals[index] - shares[index]).min(left / waiting);
        shares[index] += give;
        left -= give;
        waiting -= 1;
    }
    left
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn small_demands_are_met_and_large_ones_share_the_rest() {
        let claim = |demand| Claim { floor: 1, demand, ceiling: 100 };
        assert_eq!(fair_shares(30, &[claim(2), claim(50), claim(50)]), [2, 14, 14]);
        assert_eq!(fair_shares(30, &[claim(2), claim(3)]), [15, 15], "what nobody asked for is spread");
        assert_eq!(
            fair_shares(30, &[Claim { floor: 20, demand: 0, ceiling: 40 }; 2]),
            [15, 15],
            "floors over capacity"
        );
        assert_eq!(fair_shares(30, &[Claim { floor: 1, demand: 90, ceiling: 8 }]), [8], "never past the ceiling");
    }

    #[test]
    fn nobody_lacks_what_another_has_beyond_its_demand() {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..10_000 {
            let capacity = rng.random_range(0..200);
            let claims: Vec<Claim> = (0..rng.random_range(1..8))
                .map(|_| Claim {
                    floor: rng.random_range(0..10),
                    demand: rng.random_range(0..80),
                    ceiling: rng.random_range(10..100),
                })
                .collect();
            let shares = fair_shares(capacity, &claims);
            let floors: usize = claims.iter().map(|claim| claim.floor).sum();
            assert!(shares.iter().sum::<usize>() <= capacity, "{capacity} {claims:?} {shares:?}");
            if floors > capacity {
                continue;
            }
            for (claim, share) in claims.iter().zip(&shares) {
                assert!(*share >= claim.floor && *share <= claim.ceiling, "{claims:?} {shares:?}");
            }
            let lacks = |(claim, share): (&Claim, &usize)| *share < claim.demand.min(claim.ceiling);
            let spare = |(claim, share): (&Claim, &usize)| *share > claim.floor.max(claim.demand) + 1;
            let unfair = claims.iter().zip(&shares).any(lacks) && claims.iter().zip(&shares).any(spare);
            assert!(!unfair, "{capacity} {claims:?} {shares:?}");
        }
    }
}
