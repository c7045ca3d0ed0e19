# a file of functions that is not there
use "missing.py"
#! RL0101 cannot read `missing.py`: No such file or directory
import "parts/base.rl"

algorithm wrong {
  node reward = compute brevity(completions, answers) -> score
  node other = compute exact_match(completion, answers) -> more
  #                                ^^^^^^^^^^ RL0201 did you mean `completions`?
  metric m = mean(more)
}
---
# a file of functions that is not Python
#! broken.txt:2 RL0102 `parts/broken.txt` is not Python
use "parts/broken.txt"
import "parts/base.rl"

algorithm wrong {
  node reward = compute brevity(completions, answers) -> score
}
---
# an import that is not there
import "parts/missing.rl"
#! RL0101 cannot read `parts/missing.rl`: No such file or directory

algorithm wrong {
  param clip : float = "a"
  #     ^^^^ RL0304 the default of `clip` is no float
  node reward = compute exact_match(completions, answers) -> score
}
---
# an import of Python
import "parts/functions.py"
#! RL0103 `parts/functions.py` is no .rl file
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# imports in a circle
#! circle.rl:2 RL0106 these files import each other: circle.rl -> circle.rl
import "parts/circle.rl"
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# an import that is wrong itself
#! faulty.rl:3 RL0210 did you mean `int`?
import "parts/faulty.rl"
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# a parameter without annotation
#! functions.py:11 RL0305 the signature of `no_annotation` cannot be read: parameter `completions` of `no_annotation` has no annotation
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute no_annotation(completions, answers) -> score
}
---
# a result without annotation
#! functions.py:16 RL0305 the signature of `no_result` cannot be read: `no_result` does not say what it returns
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute no_result(completions) -> score
}
---
# an annotation that is no field type
#! functions.py:21 RL0305 the signature of `unknown_type` cannot be read: `rl.Texts` is no field type; did you mean `Text`?
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute unknown_type(completions) -> score
}
---
# one row here, many there
#! functions.py:26 RL0305 the signature of `half_rows` cannot be read: `half_rows` takes or gives one row in one place and many in another
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute half_rows(completions, answers) -> score
}
---
# the name of a shipped function
#! twins.py:4 RL0205 `exact_match` is the name of a shipped function
use "parts/twins.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers) -> score
}
---
# a function that is nearly there
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node reward = compute brevty(completions) -> score
  #                     ^^^^^^ RL0204 did you mean `brevity`?
}
