#pragma once

namespace pqcache {

// The project's version in CMakeLists.txt; a test compares the two.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace pqcache
