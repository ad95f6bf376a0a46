// Which sites are measured, and which module is inside which.
#pragma once

#include <cstdint>
#include <vector>

namespace tetrace::timing {

using Sites = std::vector<std::int32_t>;

// Ranges of `site` are measured, or only stand between those inside them and those around. `around` is any site of the
// module around, or -1; `device` is the one that a call of the module launches to, whichever is current, or -1.
void measure(std::int32_t site, std::int32_t around, bool measured, std::int32_t device);
void forget_measured();
// In a forked child, where the lock may be held by a thread that is not there.
void abandon_measured();

// Whether it is, and then its device.
bool is_measured(std::int32_t site, std::int32_t& device);
// The measured sites around and including the backward site `site`, outermost first.
Sites chain_of(std::int32_t site);

}  // namespace tetrace::timing
