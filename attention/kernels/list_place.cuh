#pragma once

namespace pqcache::attention {

// The KV head and the sequence of a list, of which a head has `lists_of_head`.
struct ListPlace {
  int head, sequence;
};

__device__ inline ListPlace PlaceOfList(int list, int lists_of_head, int kv_heads) {
  return {list / lists_of_head % kv_heads, list / lists_of_head / kv_heads};
}

}  // namespace pqcache::attention
