# SPDX-License-Identifier: Apache-2.0
"""Instructions for every task, as data: phrasings that demonstrations use, phrasings that they never use, and nouns.

All in lower case without a final stop, as instructions are compared. Words that tell similar tasks apart come from what the picture shows
or from how the motion goes, never from a number that only the simulator knows.
"""

from __future__ import annotations

# Name of a task: (in demonstrations, never in demonstrations).
PHRASINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "assembly-v3": (
        ("put the ring of the wrench over the peg", "pick up the wrench and place its ring onto the peg", "fit the nut onto the peg", "lift the nut and drop it over the peg"),
        ("slide the nut down over the peg", "take the wrench and put its ring on the peg"),
    ),
    "basketball-v3": (
        ("dunk the basketball into the basket", "pick up the basketball and drop it through the hoop", "put the basketball into the hoop", "throw the ball through the hoop"),
        ("carry the basketball to the hoop and drop it in", "score with the basketball"),
    ),
    "bin-picking-v3": (
        ("move the cube from the red bin to the blue bin", "pick the cube out of its bin and place it into the other bin", "put the cube into the blue bin", "carry the cube over to the other bin"),
        ("take the cube to the blue bin", "grasp the cube in the red bin and drop it into the blue bin"),
    ),
    "box-close-v3": (
        ("close the box with its lid", "pick up the lid and put it on the box", "put the lid onto the box", "grasp the lid and cover the box with it"),
        ("cover the box", "take the lid and close the box"),
    ),
    "button-press-topdown-v3": (
        ("press the button down from above", "push the red button down from the top", "go above the button and press it down", "press the button on top of the box"),
        ("push down the button from above", "press down on the button"),
    ),
    "button-press-topdown-wall-v3": (
        ("press the button down from above behind the wall", "go over the wall and push the button down", "reach over the wall and press the button from the top", "press the top button that stands behind the wall"),
        ("pass over the wall and press down on the button", "push down the button behind the wall"),
    ),
    "button-press-v3": (
        ("press the button on the front of the box", "push the button in", "push the red button forward", "press the button from the front"),
        ("push the button into the box", "press the front button"),
    ),
    "button-press-wall-v3": (
        ("go around the wall and press the button from the front", "press the front button behind the wall", "pass the wall and push the button in", "push the button behind the wall forward"),
        ("push in the button that the wall hides", "avoid the wall and press the front button"),
    ),
    "coffee-button-v3": (
        ("press the button of the coffee machine", "push the button on the coffee machine", "switch on the coffee machine", "start the coffee machine with its button"),
        ("turn the coffee machine on", "press the coffee button"),
    ),
    "coffee-pull-v3": (
        ("pull the mug away from the coffee machine", "take the mug out from under the coffee machine", "move the mug from the coffee machine to the mark", "grasp the mug and pull it out of the coffee machine"),
        ("drag the mug away from the coffee machine", "remove the mug from the coffee machine"),
    ),
    "coffee-push-v3": (
        ("push the mug under the coffee machine", "put the mug under the coffee machine", "move the mug to the coffee machine", "grasp the mug and slide it under the coffee machine"),
        ("bring the mug to the coffee machine", "slide the mug below the coffee machine"),
    ),
    "dial-turn-v3": (
        ("turn the dial", "rotate the dial by half a turn", "turn the dial around", "push the dial round"),
        ("rotate the dial", "give the dial half a turn"),
    ),
    "disassemble-v3": (
        ("take the ring of the wrench off the peg", "lift the nut off the peg", "pull the nut up and off the peg", "remove the wrench from the peg"),
        ("raise the nut until it is off the peg", "take the nut off the peg"),
    ),
    "door-close-v3": (
        ("close the door", "push the door shut", "shut the door of the cabinet", "swing the door closed"),
        ("shut the door", "push the open door until it is closed"),
    ),
    "door-lock-v3": (
        ("lock the door", "turn the lock of the door down", "turn the lock clockwise", "lock the door by turning its lock"),
        ("turn the lock until the door is locked", "close the lock of the door"),
    ),
    "door-open-v3": (
        ("open the door", "pull the door open by its handle", "swing the door open", "hook the handle and open the door of the cabinet"),
        ("pull the door open", "open the cabinet door"),
    ),
    "door-unlock-v3": (
        ("unlock the door", "turn the lock of the door to the side", "turn the lock counterclockwise", "unlock the door by turning its lock"),
        ("turn the lock until the door is unlocked", "open the lock of the door"),
    ),
    "drawer-close-v3": (
        ("close the drawer", "push the drawer in", "push the drawer shut", "shut the green drawer"),
        ("shut the drawer", "slide the drawer closed"),
    ),
    "drawer-open-v3": (
        ("open the drawer", "pull the drawer out by its handle", "pull the drawer open", "hook the handle and open the green drawer"),
        ("slide the drawer open", "pull out the drawer"),
    ),
    "faucet-close-v3": (
        ("close the faucet", "turn the faucet off", "turn the handle of the faucet clockwise", "push the faucet handle to close it"),
        ("shut the faucet", "turn off the tap"),
    ),
    "faucet-open-v3": (
        ("open the faucet", "turn the faucet on", "turn the handle of the faucet counterclockwise", "push the faucet handle to open it"),
        ("let the faucet run", "turn on the tap"),
    ),
    "hammer-v3": (
        ("hammer the nail into the block", "pick up the hammer and drive the nail in", "hit the nail with the hammer", "grasp the hammer and strike the nail"),
        ("drive the nail in with the hammer", "use the hammer on the nail"),
    ),
    "hand-insert-v3": (
        ("insert the hand into the hole", "put the gripper into the hole", "lower the gripper into the hole with the block", "push the hand down into the hole"),
        ("reach down into the hole", "lower the hand into the hole"),
    ),
    "handle-press-side-v3": (
        ("press the handle down from the side", "push the handle at the side of the box down", "press down the handle that points sideways", "push down the side handle"),
        ("press the side handle", "push the handle down sideways"),
    ),
    "handle-press-v3": (
        ("press the handle down", "push the handle of the box down", "push down the front handle", "press down the handle in front"),
        ("lower the handle", "press the front handle"),
    ),
    "handle-pull-side-v3": (
        ("pull the handle up from the side", "lift the handle at the side of the box", "pull up the handle that points sideways", "pull up the side handle"),
        ("raise the side handle", "pull the handle up sideways"),
    ),
    "handle-pull-v3": (
        ("pull the handle up", "lift the handle of the box", "pull up the front handle", "lift up the handle in front"),
        ("raise the handle", "lift the front handle"),
    ),
    "lever-pull-v3": (
        ("pull the lever up", "swing the lever up", "turn the lever by a quarter turn", "lift the lever"),
        ("raise the lever", "pull the lever"),
    ),
    "peg-insert-side-v3": (
        ("insert the peg into the hole in the side of the box", "pick up the peg and push it into the hole", "put the green peg into the hole", "push the peg sideways into the box"),
        ("plug the peg into the box", "take the peg and insert it sideways"),
    ),
    "peg-unplug-side-v3": (
        ("pull the peg out of the box", "unplug the peg", "pull the plug out sideways", "grasp the plug and pull it out of the hole"),
        ("take the plug out of the box", "unplug it sideways"),
    ),
    "pick-out-of-hole-v3": (
        ("pick the puck out of the hole", "take the puck out of the hole and lift it", "lift the puck out of the hole", "reach into the hole and get the puck out"),
        ("get the puck out of the hole", "raise the puck from the hole"),
    ),
    "pick-place-v3": (
        ("pick up the puck and place it at the goal", "lift the puck to the goal in the air", "grasp the puck and hold it at the mark", "bring the puck up to the goal"),
        ("take the puck to the goal above the table", "raise the puck to the mark"),
    ),
    "pick-place-wall-v3": (
        ("pick up the puck and lift it over the wall to the goal", "carry the puck over the wall to the goal", "take the puck past the wall and hold it at the mark", "lift the puck behind the wall to the goal"),
        ("bring the puck over the wall to the mark", "grasp the puck and pass the wall to the goal"),
    ),
    "plate-slide-back-side-v3": (
        ("slide the plate out of the cabinet sideways", "pull the plate out of the cabinet to the side", "move the plate sideways out of the goal", "get the plate out at the side"),
        ("push the plate out of the cabinet sideways", "take the plate out to the side"),
    ),
    "plate-slide-back-v3": (
        ("slide the plate back out of the cabinet", "pull the plate out of the cabinet towards the front", "move the plate back out of the goal", "get the plate out to the front"),
        ("bring the plate back from the cabinet", "pull the plate out"),
    ),
    "plate-slide-side-v3": (
        ("slide the plate into the cabinet sideways", "push the plate to the side into the cabinet", "move the plate sideways into the goal", "slide the plate to the side"),
        ("push the plate sideways", "bring the plate into the cabinet from the side"),
    ),
    "plate-slide-v3": (
        ("slide the plate into the cabinet", "push the plate forward into the cabinet", "move the plate forward into the goal", "slide the plate forward"),
        ("push the plate into the cabinet", "bring the plate into the cabinet from the front"),
    ),
    "push-back-v3": (
        ("push the block back to the goal", "pull the block back to the mark", "move the block backwards to the goal", "drag the block towards the robot to the goal"),
        ("bring the block back to the mark", "slide the block backwards"),
    ),
    "push-v3": (
        ("push the puck to the goal", "slide the puck along the table to the goal", "push the puck to the mark on the table", "move the puck over the table to the mark"),
        ("slide the puck to the mark", "bring the puck to the goal on the table"),
    ),
    "push-wall-v3": (
        ("push the puck around the wall to the goal", "slide the puck past the wall to the goal", "push the puck to the mark behind the wall", "move the puck around the wall"),
        ("bring the puck to the goal behind the wall", "slide the puck around the wall to the mark"),
    ),
    "reach-v3": (
        ("reach the goal", "move the hand to the goal", "go to the mark in the air", "reach for the mark"),
        ("bring the gripper to the goal", "move to the mark"),
    ),
    "reach-wall-v3": (
        ("reach the goal behind the wall", "move the hand over the wall to the goal", "go around the wall to the mark", "reach past the wall for the mark"),
        ("bring the gripper to the goal behind the wall", "move past the wall to the mark"),
    ),
    "shelf-place-v3": (
        ("place the block onto the shelf", "pick up the block and put it on the shelf", "put the block into the shelf", "grasp the block and set it down on the shelf"),
        ("bring the block to the shelf", "store the block on the shelf"),
    ),
    "soccer-v3": (
        ("kick the ball into the goal", "push the soccer ball into the net", "score a goal with the soccer ball", "shoot the soccer ball into the goal"),
        ("roll the soccer ball into the goal", "push the ball into the net"),
    ),
    "stick-pull-v3": (
        ("grasp the stick and pull the container with it", "pull the container with the stick", "pick up the stick and put it through the handle and pull", "hook the container with the stick and pull it"),
        ("use the stick to pull the container", "drag the container with the stick"),
    ),
    "stick-push-v3": (
        ("grasp the stick and push the container with it", "push the container with the stick", "pick up the stick and push the thermos away", "use the stick to push the container"),
        ("take the stick and shove the container", "push the thermos with the stick"),
    ),
    "sweep-into-v3": (
        ("sweep the block into the hole", "push the block into the hole of the table", "move the block into the hole", "slide the block into the hole"),
        ("make the block fall into the hole", "sweep it into the hole"),
    ),
    "sweep-v3": (
        ("sweep the block off the table", "push the block off the table", "sweep the block to the side and off the table", "move the block off the edge of the table"),
        ("clear the block from the table", "shove the block off the table"),
    ),
    "window-close-v3": (
        ("close the window", "push the window shut", "slide the window closed", "pull the window closed by its handle"),
        ("shut the window", "shut the sliding window"),
    ),
    "window-open-v3": (
        ("open the window", "push the window open", "slide the window open", "move the handle of the window to open it"),
        ("let some air in through the window", "open the sliding window"),
    ),
}

# What is moved, and where to.
NOUNS: dict[str, tuple[str, str]] = {
    "assembly-v3": ("nut", "peg"), "basketball-v3": ("basketball", "hoop"), "bin-picking-v3": ("cube", "bin"), "box-close-v3": ("lid", "box"),
    "button-press-topdown-v3": ("button", "button"), "button-press-topdown-wall-v3": ("button", "button"),
    "button-press-v3": ("button", "button"), "button-press-wall-v3": ("button", "button"), "coffee-button-v3": ("button", "machine"),
    "coffee-pull-v3": ("mug", "mark"), "coffee-push-v3": ("mug", "machine"), "dial-turn-v3": ("dial", "dial"), "disassemble-v3": ("nut", "peg"),
    "door-close-v3": ("door", "door"), "door-lock-v3": ("lock", "lock"), "door-open-v3": ("door", "door"), "door-unlock-v3": ("lock", "lock"),
    "drawer-close-v3": ("drawer", "drawer"), "drawer-open-v3": ("drawer", "drawer"), "faucet-close-v3": ("faucet", "faucet"),
    "faucet-open-v3": ("faucet", "faucet"), "hammer-v3": ("hammer", "nail"), "hand-insert-v3": ("block", "hole"),
    "handle-press-side-v3": ("handle", "handle"), "handle-press-v3": ("handle", "handle"), "handle-pull-side-v3": ("handle", "handle"),
    "handle-pull-v3": ("handle", "handle"), "lever-pull-v3": ("lever", "lever"), "peg-insert-side-v3": ("peg", "hole"),
    "peg-unplug-side-v3": ("plug", "plug"), "pick-out-of-hole-v3": ("puck", "goal"), "pick-place-v3": ("puck", "goal"),
    "pick-place-wall-v3": ("puck", "goal"), "plate-slide-back-side-v3": ("plate", "goal"), "plate-slide-back-v3": ("plate", "goal"),
    "plate-slide-side-v3": ("plate", "cabinet"), "plate-slide-v3": ("plate", "cabinet"), "push-back-v3": ("block", "goal"),
    "push-v3": ("puck", "goal"), "push-wall-v3": ("puck", "goal"), "reach-v3": ("puck", "goal"), "reach-wall-v3": ("puck", "goal"),
    "shelf-place-v3": ("block", "shelf"), "soccer-v3": ("ball", "goal"), "stick-pull-v3": ("stick", "container"),
    "stick-push-v3": ("stick", "container"), "sweep-into-v3": ("block", "hole"), "sweep-v3": ("block", "table"),
    "window-close-v3": ("window", "window"), "window-open-v3": ("window", "window"),
}  # fmt: skip
