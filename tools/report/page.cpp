#include "tools/report/page.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "pqcache/base/file_io.h"
#include "tools/report/charts.h"

namespace pqcache::tools {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 32;
constexpr int kColours = 12;
constexpr double kMegabyte = 1e6;

constexpr std::string_view kStyle = R"(
:root{--ink:#1c2430;--soft:#5b6675;--paper:#fff;--panel:#f5f7fa;--rule:#d9dfe7;--light:46%;--sat:62%}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--paper:#14181e;--panel:#1c222b;--rule:#323b47;--light:64%;--sat:60%}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:1.2rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--rule)}h3{font-size:1rem;margin:1.4rem 0 .4rem}
p,li{max-width:70ch}.soft{color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{background:var(--panel)}th[colspan]{text-align:center;border-left:1px solid var(--rule)}td.best{font-weight:700}
.grid-of{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1rem}
figure{margin:0;padding:.7rem;background:var(--panel);border-radius:8px;break-inside:avoid}
figcaption{font-weight:600;margin-bottom:.3rem}svg{width:100%;height:auto;display:block}
svg text{font-size:12px;fill:var(--soft)}.grid{stroke:var(--rule)}.line{fill:none;stroke-width:2}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem .9rem;margin:.4rem 0 0;padding:0;font-size:.82rem}
.key{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.35em;vertical-align:-.05em}
.cell{fill:hsl(var(--hue) 55% calc(var(--light) + 14%))}svg .cell+text{fill:#111}
details{margin:.8rem 0}summary{cursor:pointer;font-weight:600}
@media print{body{max-width:none;padding:0}details::details-content{content-visibility:visible;height:auto}.scroll{overflow:visible}}
)";

// Hues that are told apart, also beside one another.
constexpr int kHues[kColours] = {212, 24, 140, 340, 268, 48, 184, 0, 96, 300, 230, 70};

std::string ColourStyle() {
  std::string style;
  for (int i = 0; i < kColours; ++i) {
    const std::string n = std::to_string(i);
    const std::string colour = "hsl(" + std::to_string(kHues[i]) + " var(--sat) var(--light))";
    style += ".line.s" + n + "{stroke:" + colour + "}circle.s" + n + ",.bar.s" + n +
             "{fill:" + colour + "}.key.s" + n + "{background:" + colour + "}";
  }
  return style;
}

double NumberOf(const Json& row, std::string_view key, double fallback) {
  const Json* value = row.Find(key);
  return value == nullptr || !value->is_number() ? fallback : value->AsDouble();
}

std::string TextOf(const Json& row, std::string_view key) {
  const Json* value = row.Find(key);
  return value == nullptr || !value->is_string() ? "" : value->AsString();
}

std::string Percent(double share) { return ShortNumber(100 * share) + " %"; }

// Distinct values of rows, in order of first appearance.
template <typename T, typename Get>
std::vector<T> Distinct(const Json::Array& rows, Get get) {
  std::vector<T> values;
  for (const Json& row : rows) {
    const T value = get(row);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  return values;
}

bool IsPerplexity(const Json& row) {
  const Json* score = row.Find("score");
  return score == nullptr || score->is_null();
}

double ScoreOf(const Json& row) { return NumberOf(row, IsPerplexity(row) ? "ppl" : "score", NAN); }

class Page {
 public:
  explicit Page(std::span<const RunFolder> runs) : runs_(runs) {
    for (const RunFolder& run : runs) {
      for (const Json& row : run.rows) {
        const std::string policy = TextOf(row, "policy");
        colours_.emplace(policy, static_cast<int>(colours_.size()) % kColours);
      }
    }
  }

  std::string Html() const {
    std::string html =
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
        "name=\"viewport\" "
        "content=\"width=device-width, initial-scale=1\">\n<title>pqcache report</title>\n<style>" +
        std::string(kStyle) + ColourStyle() +
        "</style>\n</head>\n<body>\n<h1>pqcache report</h1>\n";
    for (const RunFolder& run : runs_) html += Run(run);
    return html + "</body>\n</html>\n";
  }

 private:
  std::string Run(const RunFolder& run) const {
    std::string html =
        "<section>\n<h2>" + Escape(run.name) + "</h2>\n<p class=\"soft\">Model " +
        Escape(TextOf(run.config, "model")) + ", " +
        std::to_string(static_cast<int64_t>(NumberOf(run.config, "n_sink", 0))) +
        " first tokens and a window of " +
        std::to_string(static_cast<int64_t>(NumberOf(run.config, "local_window", 0))) +
        " beside the budget.</p>\n";
    for (const double ctx : Contexts(run)) html += Scores(run, ctx);
    html += "<h3>By budget</h3>\n<div class=\"grid-of\">\n" + BudgetCharts(run) + "</div>\n";
    html += HeatMaps(run) + Layers(run) + Speed(run) + AllNumbers(run) + Settings(run);
    return html + "</section>\n";
  }

  int ColourOf(const std::string& policy) const { return colours_.at(policy); }
  static std::vector<double> Contexts(const RunFolder& run) {
    return Distinct<double>(run.rows, [](const Json& row) { return NumberOf(row, "ctx", 0); });
  }
  static std::vector<std::string> Policies(const RunFolder& run) {
    return Distinct<std::string>(run.rows, [](const Json& row) { return TextOf(row, "policy"); });
  }
  static std::vector<double> Budgets(const RunFolder& run) {
    std::vector<double> budgets =
        Distinct<double>(run.rows, [](const Json& row) { return NumberOf(row, "budget", -1); });
    std::erase(budgets, -1.0);
    std::sort(budgets.begin(), budgets.end());
    if (budgets.empty()) budgets = {-1};
    return budgets;
  }

  // The mean over depths of what a row of these holds, NAN without one. Policies without a budget
  // are the same at all.
  template <typename Get>
  static double Lookup(const RunFolder& run, const std::string& task, const std::string& policy,
                       double ctx, double budget, Get get) {
    double sum = 0, count = 0;
    for (const Json& row : run.rows) {
      const double its = NumberOf(row, "budget", -1);
      if (TextOf(row, "policy") != policy || NumberOf(row, "ctx", 0) != ctx) continue;
      if ((!task.empty() && TextOf(row, "task") != task) || (its != budget && its != -1)) continue;
      const double value = get(row);
      if (std::isnan(value)) continue;
      sum += value;
      count += 1;
    }
    return count > 0 ? sum / count : NAN;
  }

  static std::vector<std::string> Tasks(const RunFolder& run) {
    return Distinct<std::string>(run.rows, [](const Json& row) { return TextOf(row, "task"); });
  }
  static bool TaskIsPerplexity(const RunFolder& run, const std::string& task) {
    return std::any_of(run.rows.begin(), run.rows.end(), [&](const Json& row) {
      return TextOf(row, "task") == task && IsPerplexity(row);
    });
  }

  std::string Scores(const RunFolder& run, double ctx) const {
    const std::vector<double> budgets = Budgets(run);
    const std::vector<std::string> tasks = Tasks(run), policies = Policies(run);
    std::string head = "<tr><th rowspan=\"2\">policy</th>", second = "<tr>";
    for (const std::string& task : tasks) {
      head += "<th colspan=\"" + std::to_string(budgets.size()) + "\">" + Escape(task) + "</th>";
      for (const double budget : budgets) {
        second += "<th>" + (budget < 0 ? std::string("&nbsp;") : Percent(budget)) + "</th>";
      }
    }
    head += "<th colspan=\"" + std::to_string(budgets.size()) + "\">attended</th>";
    for (const double budget : budgets) {
      second += "<th>" + (budget < 0 ? std::string("&nbsp;") : Percent(budget)) + "</th>";
    }
    // The best of each column among the policies that leave something out.
    std::map<std::pair<std::string, double>, double> best;
    for (const std::string& task : tasks) {
      for (const double budget : budgets) {
        for (const std::string& policy : policies) {
          const double score = Lookup(run, task, policy, ctx, budget, ScoreOf);
          if (policy == "exact" || std::isnan(score)) continue;
          const auto [it, added] = best.emplace(std::pair(task, budget), score);
          const bool lower = TaskIsPerplexity(run, task);
          if (!added && (lower ? score < it->second : score > it->second)) it->second = score;
        }
      }
    }
    std::string body;
    for (const std::string& policy : policies) {
      body += "<tr><td><span class=\"key s" + std::to_string(ColourOf(policy)) + "\"></span>" +
              Escape(policy) + "</td>";
      for (const std::string& task : tasks) {
        for (const double budget : budgets) {
          const double score = Lookup(run, task, policy, ctx, budget, ScoreOf);
          const auto found = best.find({task, budget});
          // Nothing is best where nobody is right.
          const bool wins =
              policy != "exact" && found != best.end() && score == found->second && score > 0;
          body += wins ? "<td class=\"best\">" : "<td>";
          body += (std::isnan(score) ? "" : ShortNumber(score, 4)) + "</td>";
        }
      }
      for (const double budget : budgets) {
        const double share = Lookup(run, "", policy, ctx, budget, [](const Json& row) {
          return NumberOf(row, "selected_ratio", NAN);
        });
        body += "<td>" + (std::isnan(share) ? "" : Percent(share)) + "</td>";
      }
      body += "</tr>\n";
    }
    return "<h3>Scores at " + ShortNumber(ctx, 9) +
           " tokens</h3>\n<p class=\"soft\">Share of right answers, or perplexity (ppl, lower is "
           "better); "
           "columns are budgets, and on the right what was really attended to, first tokens, "
           "window and "
           "dense layers included. Policies without a budget show the same in all of them. The "
           "best "
           "of those "
           "that leave tokens out is bold.</p>\n<div class=\"scroll\"><table><thead>" +
           head + "</tr>" + second + "</tr></thead><tbody>\n" + body + "</tbody></table></div>\n";
  }

  std::string BudgetCharts(const RunFolder& run) const {
    const std::vector<double> budgets = Budgets(run);
    if (budgets.size() < 2) return "<p class=\"soft\">One budget only.</p>";
    std::string html;
    for (const double ctx : Contexts(run)) {
      for (const std::string& task : Tasks(run)) {
        LineChart chart;
        const bool ppl = TaskIsPerplexity(run, task);
        chart.title = task + ", " + ShortNumber(ctx, 9) + " tokens";
        chart.x_label = "budget, % of the context";
        chart.y_label = ppl ? "perplexity" : "score";
        chart.from_zero = !ppl;
        for (const std::string& policy : Policies(run)) {
          Series series{policy, ColourOf(policy), {}};
          for (const double budget : budgets) {
            const double score = Lookup(run, task, policy, ctx, budget, ScoreOf);
            if (!std::isnan(score)) series.points.emplace_back(100 * budget, score);
          }
          if (!series.points.empty()) chart.series.push_back(std::move(series));
        }
        html += DrawLines(chart);
      }
    }
    return html;
  }

  // Of every task with depths: context length by depth, at the smallest budget.
  std::string HeatMaps(const RunFolder& run) const {
    constexpr int kBins = 5;
    const double budget = Budgets(run).front();
    std::string html;
    for (const std::string& task : Tasks(run)) {
      std::string maps;
      for (const std::string& policy : Policies(run)) {
        std::map<double, std::vector<std::pair<double, double>>> sums;  // by context: [bins]
        for (const Json& line : run.predictions) {
          const double its = NumberOf(line, "budget", -1),
                       depth = NumberOf(line, "sample_depth", -1);
          if (TextOf(line, "task") != task || TextOf(line, "policy") != policy || depth < 0)
            continue;
          if (its != -1 && its != budget) continue;
          auto& bins = sums[NumberOf(line, "ctx", 0)];
          bins.resize(kBins);
          auto& bin = bins[static_cast<size_t>(std::min(depth * kBins, kBins - 1.0))];
          // Of the first question: the depth is that of its fact.
          const Json::Array& turns = line.Find("turns")->AsArray();
          if (turns.empty()) continue;
          const Json* scores = turns.front().Find("scores");
          bin.first += NumberOf(*scores, scores->AsObject().front().first, 0);
          bin.second += 1;
        }
        if (sums.empty()) continue;
        HeatMap map;
        map.title = policy;
        map.column_label = "depth of the fact, %";
        for (int b = 0; b < kBins; ++b) {
          map.columns.push_back(std::to_string(100 * b / kBins) + "-" +
                                std::to_string(100 * (b + 1) / kBins));
        }
        for (const auto& [ctx, bins] : sums) {
          map.rows.push_back(ShortNumber(ctx, 9));
          std::vector<double>& row = map.values.emplace_back();
          for (const auto& [sum, count] : bins) row.push_back(count > 0 ? sum / count : -1);
        }
        maps += DrawHeatMap(map);
      }
      if (maps.empty()) continue;
      html += "<details" + std::string(task == "needle" ? " open" : "") + "><summary>" +
              Escape(task) + ": right answers in percent, by context and depth" +
              (budget < 0 ? "" : ", budget " + Percent(budget)) +
              "</summary>\n<div class=\"grid-of\">\n" + maps + "</div></details>\n";
    }
    return html.empty() ? "" : "<h3>Where answers are found</h3>\n" + html;
  }

  // Judged steps, at the smallest budget.
  std::string Layers(const RunFolder& run) const {
    const double budget = Budgets(run).front();
    std::string html;
    for (const auto& [key, label] :
         {std::pair("output_error", "output error"), std::pair("recall", "recall"),
          std::pair("mass", "attention mass")}) {
      LineChart chart;
      chart.title = std::string(label) + " by layer";
      chart.x_label = "layer";
      chart.y_label = label;
      for (const std::string& policy : Policies(run)) {
        for (const Json& row : run.rows) {
          const double its = NumberOf(row, "budget", -1);
          const Json* layers = row.Find("layers");
          if (TextOf(row, "policy") != policy || layers == nullptr || (its != -1 && its != budget))
            continue;
          Series series{policy, ColourOf(policy), {}};
          for (const Json& layer : layers->AsArray()) {
            series.points.emplace_back(static_cast<double>(series.points.size()),
                                       NumberOf(layer, key, 0));
          }
          chart.series.push_back(std::move(series));
          break;
        }
      }
      html += DrawLines(chart);
    }
    if (html.empty()) return "";
    return "<h3>Error by layer and head</h3>\n<p class=\"soft\">Of the steps that were judged "
           "against exact attention, the first task of each policy.</p>\n<div "
           "class=\"grid-of\">\n" +
           html + HeadMaps(run) + "</div>\n";
  }

  // Output error of judged steps, layer by KV head.
  std::string HeadMaps(const RunFolder& run) const {
    const double budget = Budgets(run).front();
    std::string html;
    for (const std::string& policy : Policies(run)) {
      for (const Json& row : run.rows) {
        const double its = NumberOf(row, "budget", -1);
        const Json* layers = row.Find("layers");
        if (TextOf(row, "policy") != policy || layers == nullptr || (its != -1 && its != budget)) {
          continue;
        }
        HeatMap map;
        map.title = policy + ": output error, % of the output's length";
        map.column_label = "KV head";
        map.low_is_good = true;
        for (const Json& layer : layers->AsArray()) {
          map.rows.push_back("layer " + std::to_string(map.rows.size()));
          std::vector<double>& errors = map.values.emplace_back();
          const Json* heads = layer.Find("heads");
          if (heads == nullptr || !heads->is_array()) continue;
          for (const Json& head : heads->AsArray()) {
            errors.push_back(NumberOf(head, "output_error", -1));
          }
          while (map.columns.size() < errors.size()) {
            map.columns.push_back(std::to_string(map.columns.size()));
          }
        }
        for (std::vector<double>& errors : map.values) errors.resize(map.columns.size(), -1);
        if (!map.columns.empty()) html += DrawHeatMap(map);
        break;
      }
    }
    return html;
  }

  std::string Speed(const RunFolder& run) const {
    const std::vector<double> contexts = Contexts(run);
    const double budget = Budgets(run).front();
    const struct {
      const char *key, *title, *unit;
      double scale;
    } kinds[] = {{"tpot_ms", "Time per token", "ms", 1},
                 {"kv_bytes_resident", "Memory of the cache", "MB", 1 / kMegabyte}};
    std::string html;
    for (const auto& kind : kinds) {
      const auto value = [&](const std::string& policy, double ctx) {
        return kind.scale * Lookup(run, "", policy, ctx, budget,
                                   [&](const Json& row) { return NumberOf(row, kind.key, NAN); });
      };
      if (contexts.size() > 1) {
        LineChart chart{kind.title, "tokens of context", kind.unit, {}, true};
        for (const std::string& policy : Policies(run)) {
          Series series{policy, ColourOf(policy), {}};
          std::vector<double> ascending = contexts;
          std::sort(ascending.begin(), ascending.end());
          for (const double ctx : ascending) {
            const double y = value(policy, ctx);
            if (!std::isnan(y)) series.points.emplace_back(ctx, y);
          }
          if (!series.points.empty()) chart.series.push_back(std::move(series));
        }
        html += DrawLines(chart);
        continue;
      }
      BarChart chart{kind.title, kind.unit, {}};
      for (const std::string& policy : Policies(run)) {
        const double y = value(policy, contexts.front());
        if (!std::isnan(y)) chart.bars.push_back({policy, ColourOf(policy), y});
      }
      html += DrawBars(chart);
    }
    return "<h3>Speed and memory</h3>\n<p class=\"soft\">Means over all tasks" +
           (budget < 0 ? std::string() : ", budget " + Percent(budget)) +
           ". Memory is what the policy needs for one sequence: exact keys and values that it has "
           "not "
           "dropped, codes, summaries.</p>\n<div class=\"grid-of\">\n" +
           html + "</div>\n";
  }

  static std::string AllNumbers(const RunFolder& run) {
    const struct {
      const char *key, *title;
      double scale;
    } columns[] = {{"budget", "budget %", 100},
                   {"ctx", "tokens", 1},
                   {"depth", "depth %", 100},
                   {"samples", "samples", 1},
                   {"score", "score", 1},
                   {"ppl", "ppl", 1},
                   {"ttft_ms", "TTFT ms", 1},
                   {"tpot_ms", "TPOT ms", 1},
                   {"tokens_per_second", "tokens/s", 1},
                   {"kv_bytes_resident", "KV MB", 1 / kMegabyte},
                   {"flops_per_token", "MFLOP/token", 1e-6},
                   {"selected_ratio", "attended %", 100},
                   {"recall", "recall", 1},
                   {"mass", "mass", 1},
                   {"output_error", "error", 1}};
    std::string html =
        "<details><summary>All numbers</summary><div class=\"scroll\"><table><thead><tr>"
        "<th>policy</th><th>task</th>";
    for (const auto& column : columns) html += std::string("<th>") + column.title + "</th>";
    html += "</tr></thead><tbody>\n";
    for (const Json& row : run.rows) {
      html += "<tr><td>" + Escape(TextOf(row, "policy")) + "</td><td>" +
              Escape(TextOf(row, "task")) + "</td>";
      for (const auto& column : columns) {
        const double value = NumberOf(row, column.key, NAN);
        html += "<td>" + (std::isnan(value) ? "" : ShortNumber(column.scale * value, 5)) + "</td>";
      }
      html += "</tr>\n";
    }
    return html + "</tbody></table></div></details>\n";
  }

  static std::string Settings(const RunFolder& run) {
    std::string html =
        "<details><summary>Settings of the run</summary><div class=\"scroll\"><table><tbody>\n";
    for (const auto& [key, value] : run.config.AsObject()) {
      html += "<tr><td>" + Escape(key) + "</td><td>" +
              Escape(value.is_string() ? value.AsString() : value.Dump()) + "</td></tr>\n";
    }
    return html + "</tbody></table></div></details>\n";
  }

  std::span<const RunFolder> runs_;
  std::map<std::string, int> colours_;
};

Result<Json> ReadJson(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMostBytes));
  Result<Json> json = Json::Parse(text, {.max_bytes = size_t{1} << 30});
  PQCACHE_RETURN_IF_ERROR(json.status().Annotate(path));
  return json;
}

}  // namespace

Result<RunFolder> ReadRunFolder(const std::string& path) {
  RunFolder run;
  run.name = path.substr(path.find_last_not_of('/') == std::string::npos
                             ? 0
                             : path.rfind('/', path.find_last_not_of('/')) + 1);
  while (!run.name.empty() && run.name.back() == '/') run.name.pop_back();
  PQCACHE_ASSIGN_OR_RETURN(run.config, ReadJson(path + "/config.json"));
  PQCACHE_ASSIGN_OR_RETURN(const Json metrics, ReadJson(path + "/metrics.json"));
  const Json* rows = metrics.Find("results");
  if (!run.config.is_object() || rows == nullptr || !rows->is_array() || rows->AsArray().empty()) {
    return Status::InvalidArgument(path + ": metrics.json has no results, expected a finished run");
  }
  run.rows = rows->AsArray();
  PQCACHE_ASSIGN_OR_RETURN(const std::string lines,
                           ReadFile(path + "/predictions.jsonl", kMostBytes));
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    Result<Json> line = Json::Parse(std::string_view(lines).substr(begin, end - begin));
    PQCACHE_RETURN_IF_ERROR(line.status().Annotate(path + "/predictions.jsonl"));
    const Json* turns = line->Find("turns");
    if (turns == nullptr || !turns->is_array()) {
      return Status::InvalidArgument(path + "/predictions.jsonl: a line has no turns");
    }
    for (const Json& turn : turns->AsArray()) {
      const Json* scores = turn.Find("scores");
      if (scores == nullptr || !scores->is_object() || scores->AsObject().empty()) {
        return Status::InvalidArgument(path + "/predictions.jsonl: a turn has no scores");
      }
    }
    run.predictions.push_back(*std::move(line));
    begin = end + 1;
  }
  return run;
}

std::string MakePage(std::span<const RunFolder> runs) { return Page(runs).Html(); }

}  // namespace pqcache::tools
