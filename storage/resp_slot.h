#pragma once

// Which of the 16384 slots of a Redis Cluster a key lies in: CRC16 (XMODEM) of the key, or of what
// stands between its first braces. Keys with the same text in braces share a slot, and so a server.
// Pure and thread-safe.

#include <cstdint>
#include <string_view>

namespace pqcache::storage {

inline constexpr int kRespSlots = 16384;

// Polynomial 0x1021, initial value 0, neither reflected nor inverted.
uint16_t Crc16(std::string_view bytes);

// In [0, kRespSlots). Empty braces do not count.
int KeySlot(std::string_view key);

}  // namespace pqcache::storage
