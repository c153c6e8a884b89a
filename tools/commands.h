#pragma once

// What the files of this folder give to the list in pqcache_main.cpp.

#include <memory>

#include "tools/cli.h"

namespace pqcache::tools {

std::unique_ptr<Command> CreateTrainCommand();
std::unique_ptr<Command> CreateGenerateCommand();
std::unique_ptr<Command> CreateCheckCommand();
std::unique_ptr<Command> CreateEvalCommand();
std::unique_ptr<Command> CreateReportCommand();
std::unique_ptr<Command> CreateTokenizeCommand();
std::unique_ptr<Command> CreateDetokenizeCommand();
std::unique_ptr<Command> CreateContextSaveCommand();
std::unique_ptr<Command> CreateContextListCommand();
std::unique_ptr<Command> CreateContextShowCommand();
std::unique_ptr<Command> CreateContextVerifyCommand();
std::unique_ptr<Command> CreateContextRemoveCommand();
std::unique_ptr<Command> CreateContextRepairCommand();
std::unique_ptr<Command> CreateBenchAttentionCommand();
std::unique_ptr<Command> CreateBenchModelCommand();
std::unique_ptr<Command> CreateBenchStoreCommand();
std::unique_ptr<Command> CreateBenchTrainCommand();
std::unique_ptr<Command> CreateInspectCommand();
std::unique_ptr<Command> CreateDoctorCommand();

}  // namespace pqcache::tools
