// pqcache tokenize and detokenize: the tokenizer alone.

#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/spec_string.h"
#include "tools/commands.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

// -m DIR or --tokenizer FILE
struct TokenizerFlags {
  std::string model, file;

  void Declare(Flags* flags) {
    flags->Text("-m,--model", &model, "Hugging Face directory");
    flags->Text("--tokenizer", &file, "tokenizer.json");
  }
  Status Prepare() const {
    if (model.empty() == file.empty()) {
      return Status::InvalidArgument("expected one of --model DIR and --tokenizer FILE");
    }
    return Status::Ok();
  }
  Result<attention::Tokenizer> Load() const {
    return file.empty() ? LoadTokenizer(model) : attention::Tokenizer::Load(file);
  }
};

Report MakeReport(const std::vector<int64_t>& ids, const std::string& text, bool print_ids) {
  Report report;
  Json list = Json::Array();
  std::string joined;
  for (int64_t id : ids) {
    list.Push(id);
    joined += (joined.empty() ? "" : ",") + std::to_string(id);
  }
  report.json.Set("ids", std::move(list)).Set("text", text);
  report.text = (print_ids ? joined : text) + "\n";
  return report;
}

class TokenizeCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    tokenizer_.Declare(flags);
    flags->Text("-p,--prompt", &text_, "text");
    flags->Text("-f,--file", &file_, "file with the text");
    flags->Switch("--no-special", &no_special_, "without the template's special tokens");
  }
  Status Prepare() override {
    if (!text_.empty() && !file_.empty()) {
      return Status::InvalidArgument("expected one of --prompt TEXT and --file FILE");
    }
    return tokenizer_.Prepare();
  }
  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, tokenizer_.Load());
    if (!file_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(text_, ReadText(file_));
    }
    PQCACHE_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(text_, !no_special_));
    return MakeReport(ids, text_, true);
  }

 private:
  TokenizerFlags tokenizer_;
  std::string text_, file_;
  bool no_special_ = false;
};

class DetokenizeCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    tokenizer_.Declare(flags);
    flags->Texts("--tokens", &tokens_, "token ids: 1,2,3");
    flags->Switch("--no-special", &no_special_, "leave special tokens out");
  }
  Status Prepare() override {
    for (const std::string& text : tokens_) {
      PQCACHE_ASSIGN_OR_RETURN(const int64_t id, ParseCount(text, "--tokens"));
      ids_.push_back(id);
    }
    return tokenizer_.Prepare();
  }
  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, tokenizer_.Load());
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(ids_, no_special_));
    return MakeReport(ids_, text, false);
  }

 private:
  TokenizerFlags tokenizer_;
  std::vector<std::string> tokens_;
  std::vector<int64_t> ids_;
  bool no_special_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateTokenizeCommand() { return std::make_unique<TokenizeCommand>(); }
std::unique_ptr<Command> CreateDetokenizeCommand() { return std::make_unique<DetokenizeCommand>(); }

}  // namespace pqcache::tools
