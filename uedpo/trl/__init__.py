"""UE-DPO in TRL: `UEDPOTrainer` in the place of `trl.DPOTrainer`.

from uedpo.trl import UEDPOConfig, UEDPOTrainer

args = UEDPOConfig(output_dir="out", alpha=0.3, tau=0.4)  # and all that DPOConfig takes
UEDPOTrainer(model, args=args, train_dataset=rows, processing_class=processor, peft_config=lora).train()
"""

from uedpo.trl.trainer import UEDPOConfig as UEDPOConfig
from uedpo.trl.trainer import UEDPOTrainer as UEDPOTrainer
