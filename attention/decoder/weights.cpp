#include "attention/decoder/weights.h"

#include "attention/decoder/weight_loader.h"

namespace pqcache::attention {

Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                 DType compute) {
  return LoadWeightsAs<Linear>(spec, checkpoint, compute);
}

}  // namespace pqcache::attention
