#pragma once

// The two halves of a selection, for select_tokens.cu.

#include "attention/kernels/select_tokens.h"

namespace pqcache::attention {

struct SearchArrays;

// Tables of the queries and, from a sample of the candidates, the worth to collect from; and the
// append, if there is one.
Status LaunchScoreTables(const SelectTokensParams& params, const SearchArrays& arrays,
                         const AppendTokensParams* append, GpuStream stream);
// Collects, ranks and writes the lists.
Status LaunchScanCodes(const SelectTokensParams& params, const SearchArrays& arrays,
                       GpuStream stream);

}  // namespace pqcache::attention
