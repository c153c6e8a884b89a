#include "tools/commands.h"

namespace pqcache::tools {
namespace {

constexpr CommandEntry kCommands[] = {
    {"train", "train codebooks for a model", CreateTrainCommand},
    {"generate", "continue a prompt", CreateGenerateCommand},
    {"tokenize", "text to token ids", CreateTokenizeCommand},
    {"detokenize", "token ids to text", CreateDetokenizeCommand},
};

}  // namespace
}  // namespace pqcache::tools

int main(int argc, char** argv) {
  return pqcache::tools::RunCommandLine(argc, argv, pqcache::tools::kCommands);
}
