"""Loading policies: any image-text-to-text model of transformers, LoRA through peft."""
